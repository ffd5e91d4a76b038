from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranksmith.search.choose import choose, probability_within


@dataclass(frozen=True)
class _Score:
    losses: NDArray[np.int8]


def _losses(images: int, lost: int, gained: int = 0) -> NDArray[np.int8]:
    return np.array([1] * lost + [-1] * gained + [0] * (images - lost - gained), np.int8)


@pytest.mark.parametrize(
    ("lost", "gained", "images", "budget"), [(4, 2, 499, 1.0), (0, 0, 60, 1.0), (9, 3, 200, 2.5), (3, 9, 50, 0.0)]
)
def test_probability_is_the_posteriors(lost: int, gained: int, images: int, budget: float) -> None:
    rng = np.random.default_rng(0)
    flips = rng.beta(lost + gained + 0.5, images - lost - gained + 0.5, 200_000)
    share = rng.beta(lost + 28, gained + 12, 200_000)
    expected = float(np.mean(flips * (2 * share - 1) <= budget / 100))
    assert probability_within(_losses(images, lost, gained), budget) == pytest.approx(expected, abs=5e-3)


@given(
    st.integers(1, 300),
    st.integers(0, 20),
    st.integers(0, 20),
    st.floats(0, 5),
)
@settings(deadline=None, max_examples=40)
def test_probability_moves_with_the_evidence(same: int, lost: int, gained: int, budget: float) -> None:
    within = probability_within(_losses(same + lost + gained, lost, gained), budget)
    assert 0 <= within <= 1
    assert probability_within(_losses(same + lost + gained + 1, lost + 1, gained), budget) <= within + 1e-9
    assert probability_within(_losses(same + lost + gained + 1, lost, gained), budget) >= within - 1e-9
    assert probability_within(_losses(same + lost + gained, lost, gained), budget + 1) >= within - 1e-9


def test_few_images_never_look_certain() -> None:
    certainty = [probability_within(_losses(images, 0), 1.0) for images in (0, 10, 50, 100, 500)]
    assert certainty == sorted(certainty)
    assert certainty[0] < 0.5
    assert certainty[1] < 0.8
    assert certainty[4] > 0.99


def test_a_few_lucky_flips_do_not_look_like_an_improvement() -> None:
    """More gained than lost on few flips: the unseen ones will be losses as often as not."""
    assert probability_within(_losses(200, 4, 8), 0.0) < 0.75
    assert probability_within(_losses(20_000, 400, 800), 0.0) > 0.99


def test_without_labels_a_disagreement_is_only_ever_a_loss() -> None:
    for images in (20, 200):
        losses = _losses(images, 2)
        assert probability_within(losses, 1.0, labelled=False) <= probability_within(losses, 1.0)
    assert probability_within(_losses(10, 0), 100.0, labelled=False) == 1.0
    assert probability_within(_losses(10, 0), -1.0, labelled=False) == 0.0


@given(st.integers(0, 40), st.data())
@settings(deadline=None, max_examples=60)
def test_bisection_finds_the_strongest_acceptable_plan_in_few_evaluations(count: int, data: st.DataObject) -> None:
    last = data.draw(st.integers(-1, count - 1)) if count else -1
    asked = []

    def evaluate(plan: int) -> _Score:
        asked.append(plan)
        return _Score(_losses(1000, 0 if plan <= last else 200))

    choice = choose(range(count), evaluate, max_drop_pp=1.0)
    assert len(asked) == len(set(asked)) <= int(np.ceil(np.log2(count + 1)))
    assert [entry.index for entry in choice.evaluated] == sorted(asked)
    if last < 0:
        assert choice.chosen is None
    else:
        assert choice.chosen is not None
        assert choice.chosen.plan == last
        assert choice.chosen.accepted


def test_confidence_decides_between_plans_at_the_budget() -> None:
    def evaluate(plan: int) -> _Score:
        return _Score(_losses(500, plan))

    chosen = [
        choose(range(20), evaluate, max_drop_pp=1.0, confidence=confidence).chosen for confidence in (0.5, 0.9, 0.999)
    ]
    plans = [entry.plan for entry in chosen if entry is not None]
    assert plans == sorted(plans, reverse=True)
    assert len(set(plans)) == 3


def test_what_was_evaluated_is_told_with_its_probability() -> None:
    choice = choose(["mild", "strong"], lambda plan: _Score(_losses(300, 30)), max_drop_pp=1.0)
    assert choice.chosen is None
    assert [entry.plan for entry in choice.evaluated] == ["mild", "strong"]
    assert all(entry.probability < 0.01 and not entry.accepted for entry in choice.evaluated)
