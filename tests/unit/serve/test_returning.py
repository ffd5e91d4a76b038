"""Who is expected to ask again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ranksmith.serve.frontend.returning import Client, Returning

PATIENCE_S = 2.0


def test_a_client_is_expected_once_it_has_asked_again_soon() -> None:
    returning, client = Returning(PATIENCE_S, trust=1.0), Client()
    returning.asked(client, 1, 0.0)
    returning.answered([client], 1.0)
    assert returning.left_s(1.0) == 0.0

    returning.asked(client, 1, 2.0)
    returning.answered([client], 3.0)
    assert returning.left_s(3.5) == 1.5
    assert returning.rows == 1


def test_nobody_is_expected_once_everybody_has_asked() -> None:
    returning, clients = Returning(PATIENCE_S, trust=1.0), [Client(), Client()]
    quicken(returning, clients)
    returning.asked(clients[0], 3, 0.5)
    assert returning.left_s(0.5) > 0
    returning.asked(clients[1], 3, 0.5)
    assert returning.left_s(0.5) == 0.0
    assert returning.rows == 0


def test_a_client_that_took_its_time_is_not_expected_the_next_time() -> None:
    returning, client = Returning(PATIENCE_S, trust=1.0), Client()
    quicken(returning, [client])
    assert returning.left_s(PATIENCE_S) == 0.0
    assert returning.rows == 0
    returning.asked(client, 1, 2 * PATIENCE_S)
    returning.answered([client], 10.0)
    assert returning.left_s(10.0) == 0.0


def test_a_client_that_asks_something_of_another_model_is_not_expected_back_there() -> None:
    here, there, client = Returning(PATIENCE_S, trust=1.0), Returning(PATIENCE_S, trust=1.0), Client()
    quicken(here, [client])
    there.asked(client, 1, 0.1)
    there.answered([client], 0.2)
    assert there.left_s(0.2) == 0.0


def test_those_who_come_late_or_not_are_not_waited_for() -> None:
    returning, client, now = Returning(PATIENCE_S, trust=1.0), Client(), 0.0

    def is_waited_for(pause_s: float) -> bool:
        nonlocal now
        returning.asked(client, 1, now := now + pause_s)
        returning.answered([client], now := now + 1)
        return returning.left_s(now) > 0

    # Every other time it comes late: just when it is expected.
    assert any(is_waited_for(pause_s) for pause_s in [0.5, 2.5] * 10)
    assert not any([is_waited_for(pause_s) for pause_s in [0.5, 2.5] * 500][500:])
    assert any(is_waited_for(0.5) for _ in range(1000))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(1, 8), st.integers(0, 6)), max_size=60))
def test_the_rows_are_those_of_who_is_expected(steps: list[tuple[bool, int, int, int]]) -> None:
    returning, clients, now = Returning(PATIENCE_S, trust=1.0), [Client() for _ in range(5)], 0.0
    for is_asking, number, rows, halves in steps:
        now += halves / 2
        if is_asking:
            returning.asked(clients[number], rows, now)
        else:
            returning.answered(clients[: number + 1], now)
        left_s = returning.left_s(now)
        assert 0 <= left_s <= PATIENCE_S
        assert returning.rows <= sum(client.rows for client in clients)
        assert (returning.rows > 0) == (left_s > 0)


def quicken(returning: Returning, clients: list[Client]) -> None:
    """Have them asked again at once; all are answered at 0."""
    for client in clients:
        returning.asked(client, 1, -2.0)
    returning.answered(clients, -1.0)
    for client in clients:
        returning.asked(client, 1, -1.0)
    returning.answered(clients, 0.0)
