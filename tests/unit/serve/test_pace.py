"""What is expected of a queue follows what it does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksmith.serve.cost import CostCurve
from ranksmith.serve.frontend.pace import Pace

CURVE = CostCurve(2.0, 1.0)


def test_what_waits_is_taken_to_run_in_full_batches_first() -> None:
    pace = Pace(CURVE, 4)
    assert pace.alone_s(0, 1) == pytest.approx(0.003)
    # Two batches of four, one of the two that are left, and its own.
    assert pace.alone_s(10, 1) == pytest.approx((2 * 6 + 4 + 3) / 1e3)


@given(st.integers(0, 500), st.integers(1, 8))
def test_more_ahead_is_never_expected_to_take_less(ahead: int, rows: int) -> None:
    pace = Pace(CURVE, 8)
    assert pace.alone_s(ahead + 8, rows) > pace.alone_s(ahead, rows)


def test_a_machine_that_is_twice_as_slow_is_learnt_of() -> None:
    pace = Pace(CURVE, 8)
    for _ in range(200):
        pace.observe(0.1, 0.2)
    assert pace.factor == pytest.approx(2.0, rel=0.01)


def test_short_requests_say_little_of_long_queues() -> None:
    pace = Pace(CURVE, 8)
    for _ in range(200):
        pace.observe(0.1, 0.1)
    for _ in range(20):
        # Ten times what was expected, but that was a millisecond.
        pace.observe(0.001, 0.01)
    assert pace.factor < 1.3


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1e6)), max_size=50))
def test_it_stays_within_reason(seen: list[tuple[float, float]]) -> None:
    pace = Pace(CURVE, 8)
    for alone_s, took_s in seen:
        pace.observe(alone_s, took_s)
    assert 0.5 <= pace.factor <= 100
