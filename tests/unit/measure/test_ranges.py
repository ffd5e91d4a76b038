from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ranksmith.errors import UsageError
from ranksmith.measure.ranges import METHODS, Histogram

floats = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def histogram(*parts: np.ndarray) -> Histogram:
    result = Histogram()
    for part in parts:
        result.update(part)
    return result


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 60), elements=floats), st.integers(1, 5))
def test_neither_order_nor_batches_matter(values: np.ndarray, parts: int) -> None:
    shuffled = np.random.default_rng(0).permutation(values)
    whole, pieces = histogram(values), histogram(*np.array_split(shuffled, parts))
    assert [whole.range(method) for method in METHODS] == [pieces.range(method) for method in METHODS]


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 60), elements=floats))
def test_every_range_holds_zero_and_lies_within_what_was_seen(values: np.ndarray) -> None:
    found = histogram(values)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    assert found.range("minmax") == (low, high)
    for method in METHODS:
        assert low <= found.range(method)[0] <= 0 <= found.range(method)[1] <= high


def test_percentiles_are_those_of_the_values() -> None:
    values = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    for percent in (99.999, 99.99):
        cut = (100 - percent) / 2
        expected = np.percentile(values, [cut, 100 - cut])
        found = histogram(*np.array_split(values, 7)).range(f"percentile-{percent}")
        assert found == pytest.approx(expected, abs=0.25)
        assert found[0] >= values.min()


def test_entropy_cuts_a_lonely_outlier_but_not_a_full_range() -> None:
    rng = np.random.default_rng(0)
    normal = np.maximum(rng.standard_normal(200_000), 0).astype(np.float32)
    with_outlier = np.append(normal, np.float32(60.0))
    assert histogram(with_outlier).range("entropy")[1] < 30
    flat = rng.uniform(0, 1, 200_000).astype(np.float32)
    assert histogram(flat).range("entropy")[1] > 0.95


def test_entropy_of_few_or_constant_values_is_their_range() -> None:
    assert histogram(np.full(10, 3.0, np.float32)).range("entropy") == (0.0, 3.0)
    assert histogram(np.zeros(10, np.float32)).range("entropy") == (0.0, 0.0)


def test_zeros_seen_first_do_not_fix_the_scale() -> None:
    zeros, small = np.zeros(100, np.float32), np.full(100, 1e-6, np.float32)
    first, last = histogram(zeros, small), histogram(small, zeros)
    assert [first.range(method) for method in METHODS] == [last.range(method) for method in METHODS]
    assert first.range("minmax")[1] == pytest.approx(1e-6)


def test_nothing_seen_is_a_range_of_nothing() -> None:
    assert histogram(np.zeros((0, 3), np.float32)).range("minmax") == (0.0, 0.0)


def test_a_value_that_is_not_finite_is_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="NaN or infinite"):
            histogram(np.array([1.0, bad], np.float32))


def test_an_unknown_method_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="'best'") as caught:
        histogram(np.ones(1, np.float32)).range("best")
    assert "entropy" in (caught.value.hint or "")
