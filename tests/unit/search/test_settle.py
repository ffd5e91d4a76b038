"""Which questions plans of earlier runs answer."""

from __future__ import annotations

import pytest

from ranksmith.search.evidence import Budget, Evidence
from ranksmith.search.settle import Judged, Settled, settled

MILD = Judged(30.0, 0.004, Evidence(lost=1, gained=1, images=400, kl=0.004, changed=2))
STRONG = Judged(25.0, 0.008, Evidence(lost=2, gained=2, images=400, kl=0.008, changed=4))
BEYOND = Judged(23.0, 0.011, Evidence(lost=14, gained=2, images=400, kl=0.03, changed=16))
FAR = Judged(15.0, 0.05, Evidence(lost=40, gained=4, images=400, kl=0.2, changed=44))


def found(*known: Judged, offered: list[tuple[float, float]] | None = None) -> Settled | None:
    return settled(known, offered or [(0.008, 25.0)], base=0.0, budget=Budget(1.0), confidence=0.6)


def test_the_fastest_acceptable_plan_with_a_bolder_one_that_failed_settles_it() -> None:
    answer = found(BEYOND, MILD, STRONG, FAR)
    assert answer is not None
    assert (answer.best, answer.bolder) == (2, 0)
    assert answer.probabilities[2] >= 0.6 > answer.probabilities[0]


def test_nothing_is_settled_where_a_much_bolder_plan_is_all_that_failed() -> None:
    assert found(MILD, STRONG, FAR) is None


def test_nothing_is_settled_by_plans_that_failed() -> None:
    assert found(BEYOND, FAR) is None
    assert found() is None


@pytest.mark.parametrize(("ms", "is_settled"), [(24.0, True), (20.0, False)])
def test_a_plan_as_mild_that_is_much_faster_here_unsettles_it(ms: float, is_settled: bool) -> None:
    assert (found(STRONG, BEYOND, offered=[(0.007, ms)]) is not None) == is_settled


def test_how_fast_bolder_plans_are_makes_no_difference() -> None:
    assert found(STRONG, BEYOND, offered=[(0.007, 25.0), (0.02, 5.0)]) is not None
