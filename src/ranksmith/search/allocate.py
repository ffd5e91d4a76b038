"""Which option each layer gets: a sweep of plans from mild to strong.

The damage of a plan is the sum over its layers of what `damage` estimates from measurements on the model's
answer, or, where nothing was estimated, of the squared relative layer error. The gain is the time saved in context
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

__all__ = [
    "Dropped",
    "Objective",
    "Plan",
    "by_energy",
    "bytes_saved",
    "drop_unpaying",
    "estimated",
    "largest_gain",
    "make_plan",
    "plans",
]

Objective = Literal["latency", "macs", "bytes"]
OptionsByNode = Mapping[str, Sequence[Option]]


_MILDER = (0.75, 0.85, 0.92, 0.97, 1.0)
"""Fractions of the starting gain at which the most harmful changes of precision are taken back."""
_WEIGHT_BYTES = {"fp32": 4.0, "int8": 1.0}


@dataclass(frozen=True)
class Plan:
    """Options for the layers that are decomposed; the others are kept.

    Attributes:
        choices: by node, in the order of the layers.
        predicted_gain_ms: sum of the measured times saved; None where an option was not timed.
        macs_saved: multiply-adds for one image.
        damage: sum of the options' damages.
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


def estimated(option: Option) -> float:
    """The damage of an option as it was estimated, else the energy of the layer's output that it loses."""
    return option.error**2 if option.damage is None else option.damage


def make_plan(choices: Mapping[str, Option], damage: Callable[[Option], float] = estimated) -> Plan:
    """A plan and what it is predicted to gain and cost."""
    gains = [option.saved_ms for option in choices.values()]
    known = [gain for gain in gains if gain is not None]
    return Plan(
        choices=dict(choices),
        predicted_gain_ms=sum(known) if len(known) == len(gains) else None,
        macs_saved=sum(option.dense_macs - option.macs for option in choices.values()),
        damage=sum(damage(option) for option in choices.values()),
    )


def bytes_saved(option: Option) -> float:
    """Bytes of weights that an option saves against the layer in float."""
    return _WEIGHT_BYTES["fp32"] * option.dense_params - _WEIGHT_BYTES[option.precision] * option.params


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
    start: float = 0.0,
    damage: Callable[[Option], float] = estimated,
) -> list[Plan]:
    """Different plans, mild to strong: the least damage for each of a row of gains.

    The gains grow as squares from `start`, so that the mild plans, among which the choice falls, lie close together.
    The last plan has the largest gain there is. Deterministic; ties go to the layer and option given first.

    Args:
        options_by_node: options by node; those that gain nothing are ignored.
        objective: what is gained: measured milliseconds, multiply-adds or parameters.
        points: at most so many plans gain more than `start`.
        start: what is gained before it hurts, by a change of precision; a few plans of somewhat less come first.
        damage: of one option, added up over the layers.

    Raises:
        ValueError: `objective` is "latency" and an option was not timed, or `points` is below 1.
    """
    if points < 1:
        raise ValueError(f"{points} plans were asked for")
    problem = _problem(options_by_node, objective, damage)
    if problem is None:
        return []
    options, knapsack = problem
    start = min(start, knapsack.largest_gain)
    targets = start + (knapsack.largest_gain - start) * (np.arange(1, points + 1) / points) ** 2
    if start > 0:
        targets = np.concatenate([start * np.array(_MILDER), targets])
    found: list[Plan] = []
    for target in targets:
        plan = make_plan({options[j].node: options[j] for j in knapsack.solve(float(target))}, damage)
        if not found or plan.choices != found[-1].choices:
            found.append(plan)
    return found


def largest_gain(options_by_node: OptionsByNode, objective: Objective) -> float:
    """What the best option of every layer gains together, in the objective's unit."""
    problem = _problem(options_by_node, objective, lambda option: 0.0)
    return 0.0 if problem is None else problem[1].largest_gain


def _problem(
    options_by_node: OptionsByNode, objective: Objective, damage: Callable[[Option], float]
) -> tuple[list[Option], Knapsack] | None:
    """The options that gain anything, and the knapsack over them; None where there are none."""
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
        return None
    return options, Knapsack(np.array([damage(option) for option in options]), np.array(gains), np.array(layers))


def by_energy(
    options_by_node: OptionsByNode,
    thresholds: Sequence[float],
    damage: Callable[[Option], float] = estimated,
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
        return bytes_saved(option)
    if option.saved_ms is None:
        raise ValueError(f"{option.node}: {option.name} was not timed")
    return option.saved_ms


def _why_unpaying(option: Option, min_gain: float) -> str | None:
    if option.ms is None or option.dense_ms is None:
        return "it could not be timed in context"
    if option.dense_ms - option.ms > min_gain * option.dense_ms:
        return None
    what = f"{option.ms:.3g} ms against {option.dense_ms:.3g} ms for the layer as it is"
    if option.ms >= option.dense_ms:
        return f"it is not faster: {what}"
    return f"it gains less than the {min_gain:.0%} that noise could explain: {what}"
