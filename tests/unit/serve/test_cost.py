from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksmith.serve.cost import CostCurve

times = st.floats(0.01, 1000)
curves = st.builds(CostCurve, st.just(0.0) | times, st.just(0.0) | times)
timings = st.lists(st.tuples(st.integers(1, 256), times), min_size=1, max_size=12)


def _misfit(alpha: float, beta: float, rows: Sequence[int], latency_ms: Sequence[float]) -> float:
    return math.fsum(((alpha + beta * b) / t - 1) ** 2 for b, t in zip(rows, latency_ms, strict=True))


def test_a_batch_costs_alpha_and_beta_for_each_row() -> None:
    assert CostCurve(2.0, 0.5).ms(8) == 6.0


@pytest.mark.parametrize("bad", [(-1.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_a_curve_is_finite_and_not_negative(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        CostCurve(*bad)


@given(curves.filter(lambda curve: curve.ms(1) > 0), st.sets(st.integers(1, 256), min_size=2, max_size=9))
def test_timings_on_a_line_give_the_line(curve: CostCurve, sizes: set[int]) -> None:
    rows = sorted(sizes)
    found = CostCurve.fit(rows, [curve.ms(b) for b in rows])
    for b in rows:
        assert found.ms(b) == pytest.approx(curve.ms(b), rel=1e-6)


@given(timings)
def test_no_other_curve_without_negatives_fits_better(pairs: list[tuple[int, float]]) -> None:
    rows, latency_ms = [b for b, _ in pairs], [t for _, t in pairs]
    found = CostCurve.fit(rows, latency_ms)
    best = _misfit(found.alpha_ms, found.beta_ms, rows, latency_ms)
    for step in (0.001, 0.1):
        for up, right in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1)):
            alpha = max(0.0, found.alpha_ms + up * step * found.ms(1))
            beta = max(0.0, found.beta_ms + right * step * found.ms(1))
            assert best <= _misfit(alpha, beta, rows, latency_ms) + 1e-9


def test_a_small_batch_counts_as_much_as_a_large_one() -> None:
    """Least squares of absolute errors would put batch 1 near 0 ms."""
    found = CostCurve.fit([1, 2, 64, 128], [2.0, 3.0, 60.0, 140.0])
    assert found.ms(1) == pytest.approx(2.0, rel=0.1)


def test_latencies_that_fall_with_the_batch_give_a_flat_curve() -> None:
    assert CostCurve.fit([1, 2, 4], [4.0, 3.0, 2.0]).beta_ms == 0


def test_one_batch_size_promises_nothing_of_larger_ones() -> None:
    assert CostCurve.fit([4, 4], [8.0, 8.0]) == CostCurve(0.0, 2.0)


@pytest.mark.parametrize(("rows", "latency_ms"), [([], []), ([1], [1.0, 2.0]), ([0], [1.0]), ([1], [0.0])])
def test_a_fit_refuses_what_is_no_timing(rows: list[int], latency_ms: list[float]) -> None:
    with pytest.raises(ValueError, match="a fit needs"):
        CostCurve.fit(rows, latency_ms)


@given(curves, st.integers(1, 200), st.floats(0.01, 1.0))
def test_the_useful_limit_is_the_smallest_that_reaches_the_share(curve: CostCurve, largest: int, share: float) -> None:
    def enough(rows: int) -> bool:
        return rows * curve.ms(largest) >= share * largest * curve.ms(rows)

    assert curve.useful_limit(largest, share=share) == next((b for b in range(1, largest) if enough(b)), largest)


def test_without_a_fixed_cost_batches_are_useless() -> None:
    assert CostCurve(0.0, 3.0).useful_limit(64) == 1


def test_without_a_cost_per_row_only_the_largest_will_do() -> None:
    assert CostCurve(3.0, 0.0).useful_limit(64, share=1.0) == 64


@pytest.mark.parametrize(("largest", "share"), [(0, 0.5), (8, 0.0), (8, 1.1)])
def test_a_useful_limit_needs_a_largest_batch_and_a_share(largest: int, share: float) -> None:
    with pytest.raises(ValueError, match="largest is at least 1"):
        CostCurve(1.0, 1.0).useful_limit(largest, share=share)


@given(curve=curves, limit_ms=st.floats(0.01, 1e4), largest=st.integers(1, 64))
def test_the_rows_within_a_time_are_the_most_that_take_no_longer(
    curve: CostCurve, limit_ms: float, largest: int
) -> None:
    rows = curve.rows_within(limit_ms, largest)
    assert 1 <= rows <= largest
    assert rows == 1 or curve.ms(rows) <= limit_ms * (1 + 1e-9)
    assert rows == largest or curve.ms(rows + 1) >= limit_ms * (1 - 1e-9)
