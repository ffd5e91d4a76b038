"""Intervals hold the truth about as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from ranksmith.measure.bootstrap import mean_ci95, paired_ratio_ci95


def test_intervals_of_a_proportion_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = mean_ci95(rng.random(400) < 0.7, trial)
        covered += low <= 0.7 <= high
    assert 178 <= covered <= 200


def test_intervals_of_a_mean_have_the_width_of_theory() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 1000)
    low, high = mean_ci95(values, 0)
    assert low < values.mean() < high
    assert (high - low) == pytest.approx(2 * 1.96 * 2.0 / np.sqrt(1000), rel=0.1)


def test_hits_and_misses_agree_with_resampling_one_by_one() -> None:
    hits = np.random.default_rng(2).random(300) < 0.9
    # A tiny jitter makes every value different, which takes the other path.
    jittered = hits + np.random.default_rng(3).normal(0, 1e-9, 300)
    assert mean_ci95(hits, 0) == pytest.approx(mean_ci95(jittered, 0), abs=0.006)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.arange(50.0)
    assert mean_ci95(values, 7) == mean_ci95(values, 7) != mean_ci95(values, 8)


def test_no_variation_is_an_interval_of_no_width() -> None:
    assert mean_ci95([1, 1, 1], 0) == (1.0, 1.0)


def test_a_known_ratio_is_recovered_from_noisy_drifting_pairs() -> None:
    rng = np.random.default_rng(4)
    drift = np.linspace(1.0, 2.0, 200)
    reference = 10.0 * drift * rng.lognormal(0, 0.05, 200)
    candidate = 8.0 * drift * rng.lognormal(0, 0.05, 200)
    candidate[::20] *= 5
    found = paired_ratio_ci95(reference, candidate, 0)
    assert found.ratio == pytest.approx(1.25, rel=0.02)
    assert found.ci95[0] < 1.25 < found.ci95[1]
    assert found.ci95[0] > 1.2


def test_equal_models_are_not_found_faster_too_often() -> None:
    rng = np.random.default_rng(5)
    faster = 0
    for trial in range(200):
        times = rng.lognormal(0, 0.1, (2, 40))
        faster += paired_ratio_ci95(times[0], times[1], trial).ci95[0] > 1
    assert faster <= 12


@pytest.mark.parametrize(("reference", "candidate"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])])
def test_what_is_no_set_of_pairs_is_refused(reference: list[float], candidate: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs expected"):
        paired_ratio_ci95(reference, candidate, 0)


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean_ci95([], 0)


def test_several_looks_widen_the_interval_so_that_all_hold_together() -> None:
    rng = np.random.default_rng(6)
    together = 0
    for trial in range(200):
        intervals = [mean_ci95(rng.normal(0.0, 1.0, 100), trial, looks=4) for _ in range(4)]
        together += all(low <= 0.0 <= high for low, high in intervals)
    assert 178 <= together <= 200
    once, again = (mean_ci95(np.arange(50.0), 0, looks=looks) for looks in (1, 4))
    assert again[0] < once[0] < once[1] < again[1]
