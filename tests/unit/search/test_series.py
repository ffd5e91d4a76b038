"""Few times of a series stand for all of it, unless they show a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksmith.search.series import along_line, to_measure


def measured(work: np.ndarray, times: np.ndarray) -> list[float]:
    return [float(times[index]) for index in to_measure(len(work))]


@given(
    st.lists(st.integers(1, 10**9), min_size=5, max_size=40, unique=True),
    st.floats(0.0, 10.0),
    st.floats(1e-3, 10.0),
)
def test_times_on_a_line_are_found_from_three_of_them(macs: list[int], alpha: float, beta: float) -> None:
    work = np.sort(np.asarray(macs, float))
    times = alpha + beta * work / work[-1]
    line = along_line(work, measured(work, times))
    assert line is not None
    np.testing.assert_allclose(line, times, rtol=1e-6, atol=1e-9)


def test_noise_of_the_middle_one_is_shared_by_all() -> None:
    work = np.arange(1.0, 9.0)
    times = 1.0 + work
    times[4] *= 1.05
    line = along_line(work, measured(work, times))
    assert line is not None
    assert np.all(np.abs(line / (1.0 + work) - 1.0) < 0.05)


def test_a_step_shows_in_the_middle_and_there_is_no_line() -> None:
    # Of a 1×1 Conv of 64 channels in int8: two of three ranks fill no more of a tile than the one before.
    work = np.array([8.0, 16.0, 24.0, 32.0, 40.0, 48.0])
    assert along_line(work, measured(work, np.array([0.45, 0.48, 0.48, 0.61, 0.81, 0.88]))) is None


@pytest.mark.parametrize("count", range(5))
def test_a_short_series_is_measured_whole(count: int) -> None:
    assert to_measure(count) == list(range(count))
    assert along_line([float(index) for index in range(count)], [1.0] * count) is None
