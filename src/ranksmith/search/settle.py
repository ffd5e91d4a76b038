"""Whether earlier runs have answered already which plan is the strongest acceptable one.

What a plan does to the answers does not depend on the machine; how fast it is does. So plans that were judged before,
on another machine or for another number of threads, settle the question where the fastest acceptable one of them has a
neighbour that is a little bolder and not acceptable, and where nothing as mild is much faster here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ranksmith.search.evidence import Budget, Evidence, boldest

__all__ = ["Judged", "Settled", "settled"]

_BRACKET = 1.5
"""Of the damage beyond the base's, how much the bolder plan may do, for the acceptable one to be the strongest."""
_LUCK = 0.1
"""How much faster the best plan of the table looks than it is: of thousands it is the one whose options were timed with
most luck. (ResNet-50 in int8, plans of one thread on two: 6 % by the table, of which 4 % were true.)"""


@dataclass(frozen=True)
class Judged:
    """A plan that was judged before.

    Attributes:
        ms: its latency here, by the table.
        damage: estimated, in nats.
        evidence: what it did.
    """

    ms: float
    damage: float
    evidence: Evidence


@dataclass(frozen=True)
class Settled:
    """The places of two judged plans: the strongest acceptable one, and the mildest beyond it.

    Attributes:
        probabilities: that each of all the judged plans is truly within the budget.
    """

    best: int
    bolder: int
    probabilities: list[float]


def settled(
    known: Sequence[Judged],
    offered: Sequence[tuple[float, float]],
    *,
    base: float,
    budget: Budget,
    confidence: float,
    other: Evidence | None = None,
) -> Settled | None:
    """What a search of the plans on offer would find, where `known` says it; None where it does not.

    Args:
        offered: (damage, ms by the table) of the plans that would be searched.
        base: damage of the model without any decomposition.
        budget, confidence, other: as for `choose`.
    """
    bold = boldest([*(plan.evidence for plan in known), *([other] if other else [])])
    probabilities = [budget.probability(plan.evidence, bold) for plan in known]
    accepted = [index for index, value in enumerate(probabilities) if value >= confidence]
    if not accepted:
        return None
    best = min(accepted, key=lambda index: known[index].ms)
    damage = known[best].damage
    beyond = [
        index
        for index, plan in enumerate(known)
        if index not in accepted and damage < plan.damage <= base + _BRACKET * (damage - base)
    ]
    fastest_ms = min((ms for each, ms in offered if each <= damage), default=np.inf)
    if not beyond or known[best].ms > (1 + _LUCK) * fastest_ms:
        return None
    return Settled(best, min(beyond, key=lambda index: known[index].damage), probabilities)
