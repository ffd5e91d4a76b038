"""What stands for a method at equal milliseconds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers.equal_time import agreement_ci95, at_speedup, blend, difference, parameter_at, verdict


def test_a_model_at_the_target_stands_for_its_method() -> None:
    mix = at_speedup([1.1, 1.31, 1.29, 1.6], 1.3)
    assert mix.how == "measured"
    assert mix.parts in (((1, 1.0),), ((2, 1.0),))
    assert at_speedup([1.1, 1.32, 1.302], 1.3).parts == ((2, 1.0),)


def test_between_two_models_time_not_speedup_is_interpolated() -> None:
    mix = at_speedup([2.0, 1.25], 1.6)
    assert mix.how == "interpolated"
    assert [index for index, _ in mix.parts] == [1, 0]
    slow, fast = (weight for _, weight in mix.parts)
    assert slow + fast == pytest.approx(1)
    assert slow / 1.25 + fast / 2.0 == pytest.approx(1 / 1.6)


def test_the_nearest_neighbours_are_taken_whatever_their_order() -> None:
    mix = at_speedup([3.0, 1.1, 1.45, 1.2, 1.7], 1.3)
    assert {index for index, _ in mix.parts} == {2, 3}


def test_below_the_mildest_model_the_original_is_the_neighbour() -> None:
    mix = at_speedup([1.5], 1.2)
    (above, slow), (below, fast) = mix.parts
    assert (above, below) == (None, 0)
    assert slow + fast / 1.5 == pytest.approx(1 / 1.2)
    values = blend(mix, [np.array([1.0, 0.0])], np.ones(2))
    np.testing.assert_allclose(values, [1.0, slow])


def test_a_model_slower_than_the_original_is_no_neighbour() -> None:
    assert at_speedup([0.9, 1.5], 1.2).parts[0][0] is None


def test_a_method_that_is_not_fast_enough_is_not_extrapolated() -> None:
    mix = at_speedup([1.1, 1.2], 1.5)
    assert (mix.how, mix.parts) == ("not reached", ())
    assert at_speedup([], 1.5).how == "not reached"


def test_a_method_that_begins_beyond_the_target_stands_as_it_is() -> None:
    mix = at_speedup([4.1, 3.4], 1.3, from_original=False)
    assert (mix.how, mix.parts, mix.speedup) == ("faster", ((1, 1.0),), 3.4)
    assert at_speedup([4.1, 3.4], 3.8, from_original=False).how == "interpolated"


def test_a_parameter_is_sought_between_its_neighbours_in_parameter() -> None:
    # From 1 (the original) over a model that is slower than it, as misaligned ranks give.
    found = parameter_at([0.5, 0.8], [1.25, 0.8], 1.0 / 0.9)
    assert found is not None
    assert 0.5 < found < 0.8
    assert 1 / 0.8 + (1 / 1.25 - 1 / 0.8) * (0.8 - found) / 0.3 == pytest.approx(0.9)
    assert parameter_at([0.5], [2.0], 4 / 3) == pytest.approx(0.75)
    assert parameter_at([0.5, 0.8], [1.25, 0.8], 1.3) is None
    assert parameter_at([], [], 1.3) is None


def test_full_agreement_on_few_images_is_no_certainty() -> None:
    assert agreement_ci95(np.ones(30), 0) == (pytest.approx(0.9), 1.0)
    low, high = agreement_ci95(np.array([1.0] * 29 + [0.0]), 0)
    assert low < 29 / 30 <= high


def test_pairs_tell_what_separate_intervals_cannot() -> None:
    rng = np.random.default_rng(0)
    hard = (rng.random(200) < 0.9).astype(np.float64)
    easier = np.maximum(hard, (rng.random(200) < 0.3).astype(np.float64))
    mean, paired = difference(easier, hard, 0)
    assert mean > 0
    ours, theirs = agreement_ci95(easier, 0), agreement_ci95(hard, 0)
    assert verdict(ours, theirs, paired) == "the intervals overlap; image by image ours is better"


@pytest.mark.parametrize(
    ("ours", "theirs", "paired", "said"),
    [
        ((0.97, 0.99), (0.90, 0.95), (0.02, 0.08), "ours is better, the intervals do not overlap"),
        ((0.80, 0.85), (0.90, 0.95), (-0.12, -0.05), "ours is worse, the intervals do not overlap"),
        ((0.90, 0.95), (0.90, 0.96), (-0.01, 0.01), "the intervals overlap, too few images to tell"),
        ((0.90, 0.95), (0.92, 0.97), (-0.04, -0.01), "the intervals overlap; image by image ours is worse"),
    ],
)
def test_the_verdict_says_what_the_intervals_show(
    ours: tuple[float, float], theirs: tuple[float, float], paired: tuple[float, float], said: str
) -> None:
    assert verdict(ours, theirs, paired) == said
