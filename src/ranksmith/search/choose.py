"""The fastest plan that keeps the accuracy promise, from few evaluations and few images.

**What counts as kept.** On n images a plan loses some that the original had right (n₊), gains some that it
had wrong (n₋) and leaves the rest (n₀). The true drop is p₊ − p₋. The observed drop alone would let noise
choose: of many plans the luckiest looks best, and on 50 images a plan that flips none has shown little. So the
question is how probable it is, given the images, that the true drop is within the budget δ. The flips' share
q = p₊ + p₋ and the lost share of them t = p₊/q have independent posteriors,

    q ~ Beta(n₊ + n₋ + ½, n₀ + ½),    t ~ Beta(n₊ + 28, n₋ + 12),

and the drop is q·(2t − 1), so that

    P(drop ≤ δ) = E_t [ P(q·(2t − 1) ≤ δ) ],

an average of one Beta distribution function over quantiles of the other: exact, paired (agreeing images,
which say nothing, enter only through n) and without random numbers. The prior of q is Jeffreys'. That of t says,
with the weight of forty flips, what decomposed classifiers do: of the flips of a ResNet-20 on 2,500 images 0.60 to
0.72 were losses, from 45 flips to 167; of a ResNet-50 on 400 images 0.70 (10 flips) and 0.86 (28). Without it
the plan that happens to gain more than it loses on a few hundred images looks like an improvement. Where there
are no labels an image can only
disagree: p₋ = 0 and the drop is p₊ ~ Beta(n₊ + ½, n₀ + ½). A plan is acceptable when that probability reaches
`confidence`: at 0.8, of the plans exactly at the budget one in five passes. The final word is the gate's, on
images that took no part here.

**Which are evaluated.** Damage grows along the sweep, so acceptability falls, up to noise: bisection finds the
strongest acceptable plan of N in ⌈log₂(N + 1)⌉ evaluations, 5 for 24 plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincinv

__all__ = ["Choice", "Evaluated", "PlanScore", "choose", "probability_within"]

_PRIOR = 0.5
_LOST_PRIOR, _GAINED_PRIOR = 28.0, 12.0
_QUANTILES = (np.arange(2048) + 0.5) / 2048

PlanT = TypeVar("PlanT")
ScoreT = TypeVar("ScoreT", bound="PlanScore")


class PlanScore(Protocol):
    """What evaluating a plan on the selection images tells."""

    @property
    def losses(self) -> NDArray[Any]:
        """Per image: 1 where only the original is right, −1 where only the plan's model is, else 0.

        Without labels: 1 where the two disagree.
        """
        ...


@dataclass(frozen=True)
class Evaluated(Generic[PlanT, ScoreT]):
    """One evaluated point of the sweep.

    Attributes:
        index: its place in the sweep.
        probability: that its true drop is within the budget.
        accepted: whether that is enough.
    """

    index: int
    plan: PlanT
    score: ScoreT
    probability: float
    accepted: bool


@dataclass(frozen=True)
class Choice(Generic[PlanT, ScoreT]):
    """The outcome.

    Attributes:
        chosen: the strongest accepted point, or None where none was accepted.
        evaluated: everything that was evaluated, mild to strong.
    """

    chosen: Evaluated[PlanT, ScoreT] | None
    evaluated: list[Evaluated[PlanT, ScoreT]]


def choose(
    points: Sequence[PlanT],
    evaluate: Callable[[PlanT], ScoreT],
    *,
    max_drop_pp: float,
    confidence: float = 0.8,
    labelled: bool = True,
) -> Choice[PlanT, ScoreT]:
    """Bisect a sweep for its strongest acceptable plan.

    Args:
        points: plans, mild to strong.
        evaluate: builds and scores one; called at most ⌈log₂(len(points) + 1)⌉ times.
        max_drop_pp: percentage points that may be lost.
        confidence: how probable it must be that no more are.
        labelled: False where `losses` count disagreements, which no image can make good.
    """
    evaluated = []
    mildest, strongest = 0, len(points)
    while mildest < strongest:
        middle = (mildest + strongest) // 2
        score = evaluate(points[middle])
        probability = probability_within(score.losses, max_drop_pp, labelled=labelled)
        accepted = probability >= confidence
        evaluated.append(Evaluated(middle, points[middle], score, probability, accepted))
        mildest, strongest = (middle + 1, strongest) if accepted else (mildest, middle)
    evaluated.sort(key=lambda entry: entry.index)
    return Choice(next((entry for entry in reversed(evaluated) if entry.accepted), None), evaluated)


def probability_within(losses: ArrayLike, max_drop_pp: float, *, labelled: bool = True) -> float:
    """Posterior probability that the true drop is at most `max_drop_pp` percentage points.

    Args:
        losses: per image 1, 0 or −1, as `PlanScore.losses`.
        max_drop_pp: not negative.
        labelled: False where `losses` count disagreements.
    """
    values = np.asarray(losses)
    lost, gained = int(np.sum(values > 0)), int(np.sum(values < 0))
    same = values.size - lost - gained + _PRIOR
    budget = max_drop_pp / 100.0
    if not labelled:
        return float(betainc(lost + _PRIOR, same, np.clip(budget, 0.0, 1.0)))
    tilt = 2.0 * betaincinv(lost + _LOST_PRIOR, gained + _GAINED_PRIOR, _QUANTILES) - 1.0
    # With as many gained as lost, or more, any number of flips is within a budget that is not negative.
    limit = np.divide(budget, tilt, out=np.ones_like(tilt), where=tilt > 0)
    return float(np.mean(betainc(lost + gained + _PRIOR, same, np.clip(limit, 0.0, 1.0))))
