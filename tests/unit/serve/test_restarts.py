"""When a process that died is started again."""

from __future__ import annotations

from ranksmith.serve.supervisor.restarts import Restarts


def test_one_that_served_for_a_while_is_started_at_once() -> None:
    restarts = Restarts()
    for _ in range(20):
        assert restarts.after(12.0, was_ready=True) == 0.0


def test_one_that_dies_young_waits_longer_each_time_but_not_for_ever() -> None:
    restarts = Restarts()
    waits = [restarts.after(1.0, was_ready=True) for _ in range(12)]
    assert waits[0] == 0.0
    assert all(wait is not None for wait in waits)
    assert sorted(waits, key=lambda wait: wait or 0.0) == waits
    assert waits[-1] == 10.0


def test_a_long_life_makes_good_for_short_ones() -> None:
    restarts = Restarts()
    for _ in range(6):
        restarts.after(1.0, was_ready=True)
    assert restarts.after(60.0, was_ready=True) == 0.0
    assert restarts.after(1.0, was_ready=True) == 0.0


def test_the_breaker_trips_where_it_never_was_ready() -> None:
    restarts = Restarts()
    assert [restarts.after(0.5, was_ready=False) is None for _ in range(5)] == [False] * 4 + [True]


def test_being_ready_once_resets_the_breaker() -> None:
    restarts = Restarts()
    for _ in range(4):
        restarts.after(0.5, was_ready=False)
    restarts.after(0.5, was_ready=True)
    assert restarts.after(0.5, was_ready=False) is not None
