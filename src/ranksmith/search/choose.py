"""The fastest plan that keeps the accuracy promise, from few evaluations and few images.

A plan is acceptable when the probability that it is truly within the budget (`evidence`) reaches the confidence
asked for. Damage grows along the sweep, so acceptability falls, up to noise: bisection finds the strongest
acceptable plan of N in ⌈log₂(N + 1)⌉ evaluations, 6 for 48 plans. With a guess of where it lies the search gallops
from there first (Bentley and Yao 1976): one that is off by d plans costs about 2·log₂(d) evaluations, so a good guess
saves two or three of the six. The final word is the gate's, on images that took no part here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ranksmith.search.evidence import Budget, Evidence, boldest

__all__ = ["Choice", "Evaluated", "PlanScore", "choose"]

PlanT = TypeVar("PlanT")
ScoreT = TypeVar("ScoreT", bound="PlanScore")


class PlanScore(Protocol):
    """What evaluating a plan on the selection images tells."""

    @property
    def evidence(self) -> Evidence: ...


@dataclass(frozen=True)
class Evaluated(Generic[PlanT, ScoreT]):
    """One evaluated point of the sweep.

    Attributes:
        index: its place in the sweep.
        probability: that it is truly within the budget.
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
    budget: Budget,
    confidence: float,
    other: Evidence | None = None,
    guess: int | None = None,
) -> Choice[PlanT, ScoreT]:
    """Search a sweep for its strongest acceptable plan: by bisection, or galloping from a guess.

    Args:
        points: plans, mild to strong.
        evaluate: builds and scores one; without a guess called at most ⌈log₂(len(points) + 1)⌉ times.
        budget: what may be lost.
        confidence: how probable it must be that no more is.
        other: what a plan of an earlier sweep did on the same images: how readily this model's answers flip.
        guess: the index of the plan that is expected to be it; None: the one in the middle.
    """
    evaluated: list[Evaluated[PlanT, ScoreT]] = []
    mildest, strongest = 0, len(points)
    stride = 1
    while mildest < strongest:
        middle = (mildest + strongest) // 2
        # Until the answer lies between two plans that were judged, steps from the guess, each twice the last.
        if guess is not None and (mildest == 0 or strongest == len(points)):
            if evaluated:
                guess += stride if evaluated[-1].accepted else -stride
                stride *= 2
            middle = min(max(guess, mildest), strongest - 1)
        score = evaluate(points[middle])
        known = [entry.score.evidence for entry in evaluated] + ([other] if other else [])
        stronger = boldest(known)
        probability = budget.probability(score.evidence, stronger)
        accepted = probability >= confidence
        evaluated.append(Evaluated(middle, points[middle], score, probability, accepted))
        mildest, strongest = (middle + 1, strongest) if accepted else (mildest, middle)
    evaluated.sort(key=lambda entry: entry.index)
    return Choice(next((entry for entry in reversed(evaluated) if entry.accepted), None), evaluated)
