from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.search.choose import choose
from ranksmith.search.evidence import Budget, Evidence, probability_within


@dataclass(frozen=True)
class _Score:
    evidence: Evidence


def _score(images: int, lost: int, kl: float = 0.001) -> _Score:
    return _Score(Evidence(lost, 0, images, kl))


@given(st.integers(0, 40), st.data())
@settings(deadline=None, max_examples=60)
def test_bisection_finds_the_strongest_acceptable_plan_in_few_evaluations(count: int, data: st.DataObject) -> None:
    last = data.draw(st.integers(-1, count - 1)) if count else -1
    asked = []

    def evaluate(plan: int) -> _Score:
        asked.append(plan)
        return _score(1000, 0 if plan <= last else 200, 0.0001 if plan <= last else 0.1)

    choice = choose(range(count), evaluate, budget=Budget(1.0), confidence=0.8)
    assert len(asked) == len(set(asked)) <= int(np.ceil(np.log2(count + 1)))
    assert [entry.index for entry in choice.evaluated] == sorted(asked)
    if last < 0:
        assert choice.chosen is None
    else:
        assert choice.chosen is not None
        assert choice.chosen.plan == last
        assert choice.chosen.accepted


@given(st.integers(1, 40), st.data())
@settings(deadline=None, max_examples=60)
def test_a_guess_finds_the_same_plan_and_a_good_one_finds_it_sooner(count: int, data: st.DataObject) -> None:
    last = data.draw(st.integers(-1, count - 1))
    guess = data.draw(st.integers(-3, count + 3))
    asked: list[int] = []

    def evaluate(plan: int) -> _Score:
        asked.append(plan)
        return _score(1000, 0 if plan <= last else 200, 0.0001 if plan <= last else 0.1)

    choice = choose(range(count), evaluate, budget=Budget(1.0), confidence=0.8, guess=guess)
    assert (choice.chosen.plan if choice.chosen else -1) == last
    assert len(asked) == len(set(asked)) <= 2 * int(np.ceil(np.log2(count + 1))) + 1
    if guess in (last, last + 1):
        assert len(asked) <= 2


def test_confidence_decides_between_plans_at_the_budget() -> None:
    def evaluate(plan: int) -> _Score:
        return _score(500, plan)

    chosen = [
        choose(range(20), evaluate, budget=Budget(1.0), confidence=confidence).chosen
        for confidence in (0.5, 0.9, 0.999)
    ]
    plans = [entry.plan for entry in chosen if entry is not None]
    assert plans == sorted(plans, reverse=True)
    assert len(set(plans)) == 3


def test_what_was_evaluated_is_told_with_its_probability() -> None:
    choice = choose(["mild", "strong"], lambda plan: _score(300, 30), budget=Budget(1.0), confidence=0.8)
    assert choice.chosen is None
    assert [entry.plan for entry in choice.evaluated] == ["mild", "strong"]
    assert all(entry.probability < 0.01 and not entry.accepted for entry in choice.evaluated)


def test_a_plan_is_judged_in_the_light_of_those_that_flipped_more() -> None:
    """The plan in the middle is judged first and alone, a milder one with what the first taught."""
    scores = {"mild": _score(100, 1, 0.01), "middle": _score(100, 30, 0.04), "strong": _score(100, 60, 0.2)}
    choice = choose(list(scores), scores.__getitem__, budget=Budget(1.0), confidence=0.8)
    mild, middle = choice.evaluated
    assert middle.probability == probability_within(scores["middle"].evidence, 1.0)
    assert mild.probability == probability_within(scores["mild"].evidence, 1.0, other=scores["middle"].evidence)
    assert mild.probability < probability_within(scores["mild"].evidence, 1.0)


def test_an_earlier_sweep_teaches_too_unless_a_plan_of_this_one_flipped_more() -> None:
    earlier = Evidence(40, 10, 100, 0.05)
    score = _score(100, 1, 0.01)
    (only,) = choose(["plan"], lambda plan: score, budget=Budget(1.0), confidence=0.8, other=earlier).evaluated
    assert only.probability == probability_within(score.evidence, 1.0, other=earlier)
    scores = {"mild": score, "middle": _score(100, 80, 0.04), "strong": _score(100, 90, 0.2)}
    mild, middle = choose(list(scores), scores.__getitem__, budget=Budget(1.0), confidence=0.8, other=earlier).evaluated
    assert middle.probability == probability_within(scores["middle"].evidence, 1.0, other=earlier)
    assert mild.probability == probability_within(score.evidence, 1.0, other=scores["middle"].evidence)


def test_without_labels_disagreements_are_what_is_bounded() -> None:
    score = _score(300, 1)
    labelled, unlabelled = (
        choose(["plan"], lambda plan: score, budget=Budget(1.0, labelled=labelled), confidence=0.8).evaluated[0]
        for labelled in (True, False)
    )
    assert unlabelled.probability == probability_within(score.evidence, 1.0, labelled=False) < labelled.probability
