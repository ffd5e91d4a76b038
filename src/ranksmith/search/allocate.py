"""Which option each layer gets: a sweep of plans from mild to strong.

The damage of a plan is the sum over its layers of the squared relative layer error, 1 − energy: cheap, and
measured against sensitivities that need a forward pass per layer it ties. The gain is the time saved in context
(or the multiply-adds, or the parameters). For a sweep of required gains g the plan of least damage is an exact
multiple-choice knapsack,

    min Σ damage_j·x_j   subject to   Σ gain_j·x_j ≥ g,   Σ_{j of a layer} x_j ≤ 1,   x binary,

in which "keep the layer" is the choice of none. It is solved to optimality (`knapsack`). As the plans with
gain ≥ g' are among those with gain ≥ g < g', damage grows along the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ranksmith.search.candidates import Option
from ranksmith.search.knapsack import Knapsack

__all__ = ["Dropped", "Objective", "Plan", "by_energy", "drop_unpaying", "make_plan", "plans", "squared_error"]

Objective = Literal["latency", "macs", "bytes"]
OptionsByNode = Mapping[str, Sequence[Option]]


@dataclass(frozen=True)
class Plan:
    """Options for the layers that are decomposed; the others are kept.

    Attributes:
        choices: by node, in the order of the layers.
        predicted_gain_ms: sum of the measured times saved; None where an option was not timed.
        macs_saved: multiply-adds for one image.
        damage: sum of the layers' squared relative errors.
    """

    choices: dict[str, Option]
    predicted_gain_ms: float | None
    macs_saved: int
    damage: float


@dataclass(frozen=True)
class Dropped:
    """An option that does not pay, and why, in a sentence."""

    option: Option
    why: str


def squared_error(option: Option) -> float:
    """The default damage of an option: the energy of the layer's output that it loses."""
    return option.error**2


def make_plan(choices: Mapping[str, Option], damage: Callable[[Option], float] = squared_error) -> Plan:
    """A plan and what it is predicted to gain and cost."""
    gains = [_saved_ms(option) for option in choices.values()]
    known = [gain for gain in gains if gain is not None]
    return Plan(
        choices=dict(choices),
        predicted_gain_ms=sum(known) if len(known) == len(gains) else None,
        macs_saved=sum(option.dense_macs - option.macs for option in choices.values()),
        damage=sum(damage(option) for option in choices.values()),
    )


def drop_unpaying(options_by_node: OptionsByNode, min_gain: float) -> tuple[dict[str, list[Option]], list[Dropped]]:
    """Split the timed options into those that pay and those that do not.

    Args:
        min_gain: the noise margin; an option must save more than this fraction of the layer's time.

    Returns:
        The options that pay, for every node (perhaps none), and the others with the reason.
    """
    kept: dict[str, list[Option]] = {}
    dropped: list[Dropped] = []
    for node, options in options_by_node.items():
        kept[node] = []
        for option in options:
            why = _why_unpaying(option, min_gain)
            if why is None:
                kept[node].append(option)
            else:
                dropped.append(Dropped(option, why))
    return kept, dropped


def plans(
    options_by_node: OptionsByNode,
    *,
    objective: Objective = "latency",
    points: int,
    damage: Callable[[Option], float] = squared_error,
) -> list[Plan]:
    """At most `points` different plans, mild to strong: the least damage for each of a row of gains.

    The gains grow as squares, so that the mild plans, among which the choice falls, lie close together. The last
    plan has the largest gain there is. Deterministic; ties go to the layer and option given first.

    Args:
        options_by_node: options by node; those that gain nothing are ignored.
        objective: what is gained: measured milliseconds, multiply-adds or parameters.
        damage: of one option, added up over the layers.

    Raises:
        ValueError: `objective` is "latency" and an option was not timed, or `points` is below 1.
    """
    if points < 1:
        raise ValueError(f"{points} plans were asked for")
    options: list[Option] = []
    gains: list[float] = []
    layers: list[int] = []
    for given in options_by_node.values():
        paying = [(option, gain) for option in given if (gain := _gain(option, objective)) > 0]
        if paying:
            options += [option for option, _ in paying]
            gains += [gain for _, gain in paying]
            layers += [layers[-1] + 1 if layers else 0] * len(paying)
    if not options:
        return []
    knapsack = Knapsack(np.array([damage(option) for option in options]), np.array(gains), np.array(layers))
    found: list[Plan] = []
    for target in knapsack.largest_gain * (np.arange(1, points + 1) / points) ** 2:
        chosen = knapsack.solve(float(target))
        plan = make_plan({options[j].node: options[j] for j in chosen}, damage)
        if not found or plan.choices != found[-1].choices:
            found.append(plan)
    return found


def by_energy(
    options_by_node: OptionsByNode,
    thresholds: Sequence[float],
    damage: Callable[[Option], float] = squared_error,
) -> list[Plan]:
    """One plan for each threshold of retained energy, mild to strong: each layer's cheapest option that retains it.

    A layer without such an option is kept. Plans that repeat the one before, or decompose nothing, are left out.
    """
    found: list[Plan] = []
    for threshold in sorted(thresholds, reverse=True):
        choices = {}
        for node, options in options_by_node.items():
            enough = [option for option in options if option.energy >= threshold]
            if enough:
                choices[node] = min(enough, key=lambda option: (option.macs, option.error))
        if choices and (not found or choices != found[-1].choices):
            found.append(make_plan(choices, damage))
    return found


def _gain(option: Option, objective: Objective) -> float:
    if objective == "macs":
        return float(option.dense_macs - option.macs)
    if objective == "bytes":
        return float(option.dense_params - option.params)
    saved = _saved_ms(option)
    if saved is None:
        raise ValueError(f"{option.node}: {option.kind} at rank {option.rank} was not timed")
    return saved


def _saved_ms(option: Option) -> float | None:
    return None if option.ms is None or option.dense_ms is None else option.dense_ms - option.ms


def _why_unpaying(option: Option, min_gain: float) -> str | None:
    if option.ms is None or option.dense_ms is None:
        return "it could not be timed in context"
    if option.dense_ms - option.ms > min_gain * option.dense_ms:
        return None
    what = f"{option.ms:.3g} ms against {option.dense_ms:.3g} ms for the layer as it is"
    if option.ms >= option.dense_ms:
        return f"it is not faster: {what}"
    return f"it gains less than the {min_gain:.0%} that noise could explain: {what}"
