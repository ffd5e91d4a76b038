from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ranksmith.serve.batcher import Batcher, Entry
from ranksmith.serve.cost import CostCurve

STEEP = CostCurve(10.0, 1.0)


def _entry(key: object, rows: int = 1, *, group: str = "a", at: float = 0.0, due: float | None = None) -> Entry:
    return Entry(key, rows, group, at, due)


def _keys(batch: Iterable[Entry]) -> list[object]:
    return [entry.key for entry in batch]


def _filled(batcher: Batcher, *entries: Entry) -> Batcher:
    for entry in entries:
        batcher.add(entry)
    return batcher


@dataclass
class Server:
    """One session behind a batcher, on a virtual clock.

    `answered` returns the entries that an answer makes its client send, now or later.
    """

    batcher: Batcher
    time_ms: Callable[[int, float], float]
    answered: Callable[[Entry, float], Iterable[Entry]] = lambda _entry, _now: ()
    impatient: dict[object, float] = field(default_factory=dict)
    batches: list[tuple[float, list[Entry]]] = field(default_factory=list)
    answers_s: dict[object, float] = field(default_factory=dict)
    predicted_s: dict[object, float] = field(default_factory=dict)
    cancelled: set[object] = field(default_factory=set)
    expired: set[object] = field(default_factory=set)
    held_s: float = 0.0
    held: list[list[Entry]] = field(default_factory=list)
    refuses: bool = False

    def run(self, entries: Iterable[Entry], until_s: float) -> Server:
        """Until the time is over, or until nothing arrives any more and nothing waits."""
        self._order = count()
        self._events: list[tuple[float, int, Entry | object]] = []
        self._arrive(entries)
        now, free_s, running, holding = 0.0, -math.inf, list[Entry](), False
        while True:
            wake_s = self.batcher.wake_s(now) if len(self.batcher) and not running else None
            times = [self._events[0][0]] if self._events else []
            times += [free_s] if running else [] if wake_s is None else [wake_s]
            if not times or min(times) > until_s:
                return self
            previous, now = now, max(now, min(times))
            if len(self.batcher) and not running:
                self.held_s += now - previous
            if running and now >= free_s:
                running = self._answer(running, now)
            self._admit(now, free_s)
            if not running:
                self.expired |= {entry.key for entry in self.batcher.expired(now)}
                running = self.batcher.take(now)
                if running and holding:
                    self.held.append(running)
                holding = not running and len(self.batcher) > 0
                if running:
                    rows = sum(entry.rows for entry in running)
                    took_ms = self.time_ms(rows, now)
                    free_s = now + took_ms / 1000
                    self.batches.append((now, running))
                    self.batcher.observe(rows, took_ms)

    @property
    def rows(self) -> int:
        return sum(entry.rows for _, batch in self.batches for entry in batch)

    def _arrive(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            heapq.heappush(self._events, (entry.arrived_s, next(self._order), entry))

    def _admit(self, now: float, free_s: float) -> None:
        while self._events and self._events[0][0] <= now:
            _, _, event = heapq.heappop(self._events)
            if not isinstance(event, Entry):
                if self.batcher.cancel(event):
                    self.cancelled.add(event)
                continue
            wait_s = self.predicted_s[event.key] = self.batcher.predicted_wait_s(
                now, event.rows, free_s, group=event.group
            )
            if self.refuses and event.deadline_s is not None and now + wait_s > event.deadline_s:
                continue
            self.batcher.add(event)
            if event.key in self.impatient:
                heapq.heappush(self._events, (now + self.impatient[event.key], next(self._order), event.key))

    def _answer(self, batch: list[Entry], now: float) -> list[Entry]:
        for entry in batch:
            assert entry.key not in self.answers_s, "answered twice"
            self.answers_s[entry.key] = now
            self._arrive(self.answered(entry, now))
        return []


def _on(curve: CostCurve) -> Callable[[int, float], float]:
    return lambda rows, _now: curve.ms(rows)


def _poisson(
    rate: float,
    until_s: float,
    *,
    seed: int,
    sizes: tuple[int, ...] = (1,),
    groups: str = "a",
    wait_s: float = math.inf,
) -> Iterator[Entry]:
    chance = random.Random(seed)
    now = chance.expovariate(rate)
    for key in count():
        if now >= until_s:
            return
        due = now + wait_s * (0.5 + chance.random()) if wait_s < math.inf else None
        yield Entry(key, chance.choice(sizes), chance.choice(groups), now, due)
        now += chance.expovariate(rate)


def _closed_loop(batcher: Batcher, curve: CostCurve, *, clients: int, until_s: float, gap_s: float = 0.0) -> Server:
    """Every client sends its next request `gap_s` (a little more for each next client) after its answer."""
    keys = count(clients)
    client_of: dict[object, int] = {client: client for client in range(clients)}

    def again(entry: Entry, now: float) -> list[Entry]:
        key, client = next(keys), client_of[entry.key]
        client_of[key] = client
        return [_entry(key, at=now + gap_s * (1 + client / clients))]

    first = [_entry(client, at=gap_s * (1 + client / clients)) for client in range(clients)]
    return Server(batcher, _on(curve), again).run(first, until_s)


def _within_a_batch(server: Server, limit: int) -> None:
    for _, batch in server.batches:
        assert len({entry.group for entry in batch}) == 1
        assert sum(entry.rows for entry in batch) <= limit or len(batch) == 1
        assert not any(entry.alone for entry in batch) or len(batch) == 1


# Entries of very different sizes, one of them above most limits, in two groups.
_mixed = partial(_poisson, sizes=(1, 1, 1, 2, 3, 5, 11), groups="aab")


@pytest.mark.parametrize("rate", [20, 100, 400])
@pytest.mark.parametrize("target_ms", [None, 60.0])
def test_everything_is_answered_once_and_in_the_order_of_its_group(rate: float, target_ms: float | None) -> None:
    entries = [replace(entry, alone=entry.key % 17 == 0) for entry in _mixed(rate, 5.0, seed=1)]
    server = Server(Batcher(STEEP, limit=8, target_ms=target_ms), _on(STEEP)).run(entries, math.inf)
    assert server.answers_s.keys() == {entry.key for entry in entries}
    _within_a_batch(server, 8)
    ran = [entry for _, batch in server.batches for entry in batch]
    for group in "ab":
        assert [e for e in ran if e.group == group] == [e for e in entries if e.group == group]


@pytest.mark.parametrize("rate", [20, 100, 400])
def test_without_target_and_deadlines_a_session_never_idles_while_entries_wait(rate: float) -> None:
    server = Server(Batcher(STEEP, limit=8), _on(STEEP)).run(_mixed(rate, 5.0, seed=2), math.inf)
    assert server.held_s == 0


def test_a_flood_of_one_group_does_not_starve_another() -> None:
    flood = list(_poisson(2000, 3.0, seed=3))
    rare = [_entry(f"rare {second}", group="b", at=second / 10) for second in range(30)]
    server = Server(Batcher(STEEP, limit=8), _on(STEEP)).run([*flood, *rare], math.inf)
    for entry in rare:
        behind = [
            e for _, batch in server.batches for e in batch if server.answers_s[e.key] < server.answers_s[entry.key]
        ]
        late = [e for e in behind if e.arrived_s > entry.arrived_s]
        assert len(late) <= 8, "younger entries go first only by joining a batch of older ones"


def test_what_is_cancelled_or_expired_never_runs() -> None:
    entries = list(_mixed(400, 5.0, seed=4, wait_s=0.1))
    impatient = {entry.key: 0.02 for entry in entries[::3]}
    server = Server(Batcher(STEEP, limit=8), _on(STEEP), impatient=impatient).run(entries, math.inf)
    ran = set(server.answers_s)
    assert server.cancelled
    assert server.expired
    assert ran.isdisjoint(server.cancelled | server.expired)
    assert server.cancelled.isdisjoint(server.expired)
    assert ran | server.cancelled | server.expired == {entry.key for entry in entries}
    start_s = {entry.key: start_s for start_s, batch in server.batches for entry in batch}
    for entry in entries:
        if entry.key in ran and entry.deadline_s is not None:
            assert start_s[entry.key] + STEEP.ms(entry.rows) / 1000 <= entry.deadline_s + 1e-9


@pytest.mark.parametrize("limit", [4, 16, 64])
def test_at_high_load_throughput_is_near_the_best_of_the_curve(limit: int) -> None:
    best = limit / STEEP.ms(limit) * 1000
    server = Server(Batcher(STEEP, limit=limit), _on(STEEP)).run(_poisson(1.3 * best, 10.0, seed=5), 10.0)
    assert server.rows / 10 > 0.97 * best


def test_at_low_load_nothing_waits_for_company() -> None:
    server = Server(Batcher(STEEP, limit=64, target_ms=1000), _on(STEEP)).run(_poisson(2, 30.0, seed=6), math.inf)
    assert server.held_s == 0


def test_waiting_makes_fewer_batches_of_the_same_load() -> None:
    entries = list(_poisson(0.3 * 32 / STEEP.ms(32) * 1000, 10.0, seed=6))
    greedy = Server(Batcher(STEEP, limit=32), _on(STEEP)).run(entries, math.inf)
    patient = Server(Batcher(STEEP, limit=32, target_ms=200), _on(STEEP)).run(entries, math.inf)
    assert greedy.held_s == 0 < patient.held_s
    assert patient.rows == greedy.rows
    assert len(patient.batches) < 0.97 * len(greedy.batches)


@pytest.mark.parametrize("curve", [STEEP, CostCurve(40.0, 0.0), CostCurve(2000.0, 10.0), CostCurve(0.0, 5.0)])
@pytest.mark.parametrize("clients", [1, 2, 3, 8, 32])
@pytest.mark.parametrize("gap_s", [0.0, 0.0005, 0.03])
def test_waiting_does_not_cost_a_closed_loop_its_throughput(curve: CostCurve, clients: int, gap_s: float) -> None:
    until_s = 400 * curve.ms(1) / 1000
    greedy = _closed_loop(Batcher(curve, limit=16), curve, clients=clients, until_s=until_s, gap_s=gap_s)
    patient = _closed_loop(
        Batcher(curve, limit=16, target_ms=1e5), curve, clients=clients, until_s=until_s, gap_s=gap_s
    )
    assert patient.rows >= 0.95 * greedy.rows


@pytest.mark.parametrize("load", [0.3, 0.4, 0.6])
def test_who_waited_for_company_is_still_answered_within_the_target(load: float) -> None:
    rate = load * 32 / STEEP.ms(32) * 1000
    server = Server(Batcher(STEEP, limit=32, target_ms=80), _on(STEEP)).run(_poisson(rate, 10.0, seed=7), math.inf)
    assert server.held
    for entry in (entry for batch in server.held for entry in batch):
        assert server.answers_s[entry.key] <= entry.arrived_s + 0.080 + 1e-9


@pytest.mark.parametrize("sizes", [(1,), (1, 2, 3, 5)])
@pytest.mark.parametrize("groups", ["a", "ab"])
@pytest.mark.parametrize("load", [0.3, 0.7, 1.2])
def test_predicted_waits_are_seldom_too_short_and_never_far_too_long(
    sizes: Sequence[int], groups: str, load: float
) -> None:
    """Too short by more than 3 ms (a fifth of a full batch) for at most 2 %, and by more than a full batch for none.

    On average too long by at most a full batch.
    """
    curve = CostCurve(8.0, 1.0)
    rate = load * 8 / curve.ms(8) * 1000 / (sum(sizes) / len(sizes))
    entries = list(_poisson(rate, 5.0, seed=8, sizes=sizes, groups=groups))
    server = Server(Batcher(curve, limit=8), _on(curve)).run(entries, math.inf)
    real_s = {entry.key: server.answers_s[entry.key] - entry.arrived_s for entry in entries}
    excess_s = [server.predicted_s[key] - wait_s for key, wait_s in real_s.items()]
    assert min(excess_s) >= -curve.ms(8) / 1000
    assert sum(excess < -0.003 for excess in excess_s) <= 0.02 * len(excess_s)
    assert sum(excess_s) / len(excess_s) <= curve.ms(8) / 1000


def test_refusing_at_the_door_by_the_prediction_keeps_goodput_near_capacity() -> None:
    """Three times what can be served, every entry with 100 ms: what is admitted is answered in time."""
    server = Server(Batcher(STEEP, limit=16), _on(STEEP), refuses=True)
    capacity = 16 / STEEP.ms(16) * 1000
    server.run((replace(entry, deadline_s=entry.arrived_s + 0.1) for entry in _poisson(3 * capacity, 5.0, seed=9)), 5.0)
    due_s = {entry.key: entry.deadline_s or 0.0 for _, batch in server.batches for entry in batch}
    good = [key for key, answer_s in server.answers_s.items() if answer_s <= due_s[key] + 1e-9]
    assert len(good) >= 0.95 * capacity * 5
    assert len(good) >= 0.99 * len(server.answers_s)


def test_the_limit_shrinks_in_a_slow_phase_and_recovers() -> None:
    def time_ms(rows: int, now: float) -> float:
        return STEEP.ms(rows) * (6 if 2.0 <= now < 4.0 else 1)

    batcher = Batcher(STEEP, limit=16, target_ms=60)
    rate = 0.9 * 16 / STEEP.ms(16) * 1000
    server = Server(batcher, time_ms)
    server.run(_poisson(rate, 8.0, seed=10), math.inf)
    slow = [sum(e.rows for e in batch) for start_s, batch in server.batches if 2.5 <= start_s < 4.0]
    after = [sum(e.rows for e in batch) for start_s, batch in server.batches if start_s > 5.0]
    assert max(slow) == 1
    assert max(after) == 16
    assert batcher.limit == 16


def test_the_same_calls_give_the_same_batches() -> None:
    runs = [
        Server(Batcher(STEEP, limit=8, target_ms=70), _on(STEEP)).run(_mixed(300, 3.0, seed=11), math.inf)
        for _ in range(2)
    ]
    assert runs[0].batches == runs[1].batches
    assert runs[0].predicted_s == runs[1].predicted_s


def test_an_empty_batcher_has_nothing_to_do() -> None:
    batcher = Batcher(STEEP, limit=8, target_ms=50)
    assert (len(batcher), batcher.rows) == (0, 0)
    assert batcher.take(1.0) == []
    assert batcher.wake_s(1.0) is None
    assert batcher.expired(1.0) == []
    assert not batcher.cancel("nobody")
    assert batcher.predicted_wait_s(1.0, 4) == pytest.approx(0.014)
    assert batcher.predicted_wait_s(1.0, 4, 1.5) == pytest.approx(0.514)
    assert batcher.predicted_wait_s(1.0, 4, 0.5) == pytest.approx(0.014)


def test_a_batch_is_the_oldest_group_in_order_up_to_the_limit() -> None:
    batcher = _filled(
        Batcher(STEEP, limit=4),
        _entry(1, 2),
        _entry(2, 1, group="b"),
        _entry(3, 1),
        _entry(4, 2),
        _entry(5, 1),
        _entry(6, 9, group="b"),
    )
    assert (len(batcher), batcher.rows) == (6, 16)
    assert [_keys(batcher.take(0.0)) for _ in range(5)] == [[1, 3], [2], [4, 5], [6], []]
    assert (len(batcher), batcher.rows) == (0, 0)


def test_a_suspect_runs_alone_and_in_its_turn() -> None:
    batcher = _filled(Batcher(STEEP, limit=8), _entry(1), replace(_entry(2), alone=True), _entry(3), _entry(4))
    assert [_keys(batcher.take(0.0)) for _ in range(3)] == [[1], [2], [3, 4]]


def test_a_key_may_wait_only_once_but_come_again() -> None:
    batcher = _filled(Batcher(STEEP, limit=8), _entry(1))
    with pytest.raises(ValueError, match="waits already"):
        batcher.add(_entry(1))
    assert batcher.cancel(1)
    assert not batcher.cancel(1)
    batcher.add(_entry(1))
    assert _keys(batcher.take(0.0)) == [1]
    assert not batcher.cancel(1)


def test_only_what_cannot_be_answered_in_time_expires() -> None:
    batcher = _filled(Batcher(STEEP, limit=8), _entry(1, 4, due=1.013), _entry(2, 1, due=1.013), _entry(3, 4))
    assert batcher.expired(0.9) == []
    assert _keys(batcher.expired(1.0)) == [1]
    assert batcher.expired(1.0) == []
    assert _keys(batcher.expired(1.01)) == [2]
    assert batcher.expired(99.0) == []
    assert batcher.rows == 4


def _after_a_rush(rush: int = 400, **settings: float) -> Batcher:
    """At time 1, and used to `rush` rows per second, so that batches of 3 are worth a wait."""
    batcher = Batcher(STEEP, limit=8, target_ms=settings.get("target_ms"))
    for key in range(2 * rush):
        batcher.add(_entry(("rush", key), at=key / rush - 1))
        batcher.cancel(("rush", key))
    return batcher


def test_waiting_needs_a_target_or_a_deadline() -> None:
    batcher = _filled(_after_a_rush(), _entry(1, at=1.0))
    assert batcher.wake_s(1.0) == 1.0
    assert _keys(batcher.take(1.0)) == [1]
    batcher = _filled(_after_a_rush(), _entry(1, at=1.0, due=2.0))
    assert batcher.take(1.0) == []
    assert 1.0 < (batcher.wake_s(1.0) or 0) < 1.0 + STEEP.alpha_ms / 1000


def test_a_wait_ends_when_it_was_to_end_though_a_trickle_goes_on() -> None:
    batcher = _filled(_after_a_rush(target_ms=100), _entry(1, at=1.0))
    assert batcher.take(1.0) == []
    wake_s = batcher.wake_s(1.0)
    assert wake_s is not None
    batcher.add(_entry(2, at=1.004))
    assert batcher.take(1.004) == []
    assert batcher.wake_s(1.004) == pytest.approx(1.004 + (wake_s - 1.0) - 0.005, abs=0.004)
    assert (batcher.wake_s(1.004) or 0) <= wake_s
    assert _keys(batcher.take(wake_s)) == [1, 2]


def test_a_wait_ends_as_soon_as_the_batch_is_worth_it() -> None:
    batcher = _filled(_after_a_rush(target_ms=100), _entry(1, at=1.0))
    assert batcher.take(1.0) == []
    batcher.add(_entry(2, 3, at=1.001))
    assert _keys(batcher.take(1.001)) == [1, 2]


@pytest.mark.parametrize(
    "spoiler",
    [
        _entry(2, group="b", at=1.0),
        replace(_entry(2, at=1.0), alone=True),
        _entry(2, at=1.0, due=1.0125),
        _entry(2, at=0.9),
        _entry(2, 7, at=1.0),
    ],
    ids=["another group", "a suspect", "no slack", "arrived long ago", "enough rows"],
)
def test_nothing_waits_for_company_when(spoiler: Entry) -> None:
    batcher = _filled(_after_a_rush(target_ms=100), _entry(1, at=1.0), spoiler)
    assert batcher.wake_s(1.0) == 1.0
    assert batcher.take(1.0)


def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    batcher = _filled(_after_a_rush(target_ms=100), _entry(1, at=1.0))
    assert batcher.take(1.0) == []
    assert batcher.cancel(1)
    assert batcher.wake_s(1.001) is None
    batcher.add(_entry(2, at=1.05))
    assert batcher.take(1.05) == [], "the wait of 1 is over, that of 2 begins"


def test_the_limit_starts_at_what_the_curve_puts_within_the_target() -> None:
    assert Batcher(STEEP, limit=64).limit == 64
    assert Batcher(STEEP, limit=64, target_ms=30).limit == 20
    assert Batcher(STEEP, limit=64, target_ms=5).limit == 1
    assert Batcher(CostCurve(10.0, 0.0), limit=64, target_ms=5).limit == 1


def test_the_limit_rises_by_a_row_and_falls_by_half_within_its_bounds() -> None:
    batcher = Batcher(STEEP, limit=21, target_ms=30)
    limits = []
    for rows, ms in [(4, 20.0), (4, 20.0), (4, 31.0), (99, 500.0), (99, 20.0), *[(1, 31.0)] * 5]:
        batcher.observe(rows, ms)
        limits.append(batcher.limit)
    assert limits == [21, 21, 10, 10, 11, 5, 2, 1, 1, 1]
    batcher = Batcher(STEEP, limit=8)
    batcher.observe(4, 1e6)
    assert batcher.limit == 8, "without a target nothing overshoots"


def test_entries_larger_than_the_limit_do_not_keep_it_down() -> None:
    batcher = Batcher(STEEP, limit=8, target_ms=30)
    for _ in range(5):
        batcher.observe(1, 99.0)
    for _ in range(9):
        batcher.observe(4, 14.0)
    assert batcher.limit == 8


def test_the_curve_drifts_to_what_is_observed() -> None:
    batcher = Batcher(CostCurve(20.0, 0.2), limit=32)
    chance = random.Random(12)
    for _ in range(3000):
        rows = chance.randint(1, 32)
        batcher.observe(rows, STEEP.ms(rows) * chance.uniform(0.9, 1.1))
    for rows in (1, 8, 32):
        assert batcher.curve.ms(rows) == pytest.approx(STEEP.ms(rows), rel=0.1)


def test_one_stall_hardly_moves_the_curve() -> None:
    batcher = Batcher(STEEP, limit=8)
    batcher.observe(4, 1e9)
    assert batcher.curve.ms(4) == pytest.approx(1.05 * STEEP.ms(4))
    batcher.observe(4, 0.0)
    assert batcher.curve.ms(4) == pytest.approx(0.95 * 1.05 * STEEP.ms(4))


def test_a_curve_of_nothing_takes_the_first_observation() -> None:
    batcher = Batcher(CostCurve(0.0, 0.0), limit=8)
    batcher.observe(4, 8.0)
    assert batcher.curve == CostCurve(0.0, 2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _entry(1, 0), "at least one row"),
        (lambda: Batcher(STEEP, limit=0), "at least one row"),
        (lambda: Batcher(STEEP, limit=1, target_ms=0.0), "above 0 ms"),
        (lambda: Batcher(STEEP, limit=1, target_ms=math.nan), "above 0 ms"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class BatcherMachine(RuleBasedStateMachine):
    """Against the obvious implementation, a list; any order of calls, any clock that does not run backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.batcher = Batcher(STEEP, limit=8, target_ms=40)
        self.queue: list[Entry] = []
        self.now = 0.0
        self.keys = count()

    @rule(
        rows=st.integers(1, 12),
        group=st.sampled_from("aaab"),
        slack_s=st.none() | st.floats(0, 0.1),
        alone=st.integers(0, 9),
        after_s=st.floats(0, 0.005),
    )
    def add(self, rows: int, group: str, slack_s: float | None, alone: int, after_s: float) -> None:
        self.now += after_s
        due = None if slack_s is None else self.now + slack_s
        entry = Entry(next(self.keys), rows, group, self.now, due, alone=alone == 0)
        self.batcher.add(entry)
        self.queue.append(entry)

    @rule(key=st.integers(0, 60))
    def cancel(self, key: int) -> None:
        assert self.batcher.cancel(key) == (key in _keys(self.queue))
        self.queue = [entry for entry in self.queue if entry.key != key]

    @rule(after_s=st.floats(0, 0.05))
    def expire(self, after_s: float) -> None:
        self.now += after_s
        late = [entry for entry in self.queue if self._is_late(entry)]
        assert self.batcher.expired(self.now) == late
        self.queue = [entry for entry in self.queue if entry not in late]

    @rule()
    def take(self) -> None:
        wake_s = self.batcher.wake_s(self.now)
        batch = self.batcher.take(self.now)
        if not self.queue:
            assert (wake_s, batch) == (None, [])
            return
        assert wake_s is not None
        assert bool(batch) == (wake_s == self.now)
        if not batch:
            assert wake_s < self.now + self.batcher.curve.alpha_ms / 1000
            assert self.batcher.wake_s(self.now) == wake_s
            self.now = wake_s
            batch = self.batcher.take(self.now)
        assert batch == self._packed(self.queue[0].group)[0]
        self.queue = [entry for entry in self.queue if entry not in batch]

    @rule(rows=st.integers(1, 12), ms=st.floats(1, 80))
    def observe(self, rows: int, ms: float) -> None:
        before = self.batcher.limit
        self.batcher.observe(rows, ms)
        assert 1 <= self.batcher.limit <= 8
        assert self.batcher.limit <= before + 1

    @rule(rows=st.integers(1, 12), busy_s=st.none() | st.floats(-0.1, 0.1), group=st.sampled_from("abc"))
    def predict(self, rows: int, busy_s: float | None, group: str) -> None:
        curve = self.batcher.curve
        batches = sum(len(self._packed(group)) for group in {entry.group for entry in self.queue})
        least_ms = batches * curve.alpha_ms + (self.batcher.rows + rows) * curve.beta_ms + 1e3 * max(0, busy_s or 0)
        most_ms = least_ms + curve.alpha_ms + (batches + 1) * self.batcher.limit * curve.beta_ms
        busy_until_s = None if busy_s is None else self.now + busy_s
        predicted_ms = 1e3 * self.batcher.predicted_wait_s(self.now, rows, busy_until_s, group=group)
        assert least_ms - 1e-6 <= predicted_ms <= most_ms + 1e-6

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.batcher) == len(self.queue)
        assert self.batcher.rows == sum(entry.rows for entry in self.queue)

    def _is_late(self, entry: Entry) -> bool:
        needed_s = self.batcher.curve.ms(entry.rows) / 1000
        return entry.deadline_s is not None and self.now + needed_s > entry.deadline_s

    def _packed(self, group: str) -> list[list[Entry]]:
        batches: list[list[Entry]] = []
        for entry in (entry for entry in self.queue if entry.group == group):
            last = batches[-1] if batches else []
            fits = sum(other.rows for other in last) + entry.rows <= self.batcher.limit
            if last and fits and not entry.alone and not last[0].alone:
                last.append(entry)
            else:
                batches.append([entry])
        return batches


TestBatcherMachine = BatcherMachine.TestCase
TestBatcherMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_what_shrinks_keeps_its_place_and_makes_room() -> None:
    batcher = _filled(Batcher(STEEP, limit=4), _entry(1, 3), _entry(2, 2), _entry(3, 1))
    batcher.shrink(1, 2)
    assert batcher.rows == 5
    assert _keys(batcher.take(0.0)) == [1, 2]
    assert batcher.rows == 1
    with pytest.raises(ValueError, match="shrink"):
        batcher.shrink(3, 2)
