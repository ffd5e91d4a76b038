"""The requests of one front end, and the workers that answer them.

A request that was admitted is kept until it is answered. When a worker dies, what was in flight there is sent once
more to another one, or waits for the one that is restarted: the client sees a slower answer, not an error. What was in
flight at two deaths is suspected and runs alone from then on; if a worker dies of that as well, it gets an error and
the others their answers.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import structlog

from ranksmith.serve.frames import Frame, Kind, Tensor, unstack
from ranksmith.serve.frontend.deadlines import Deadlines
from ranksmith.serve.frontend.held import Outcome, Pending, Worker
from ranksmith.serve.frontend.reply import RefusedError, Reply
from ranksmith.serve.frontend.returning import Client
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.frontend.shared import SharedCounts
from ranksmith.serve.frontend.station import Station
from ranksmith.serve.messages import Answer, Ask, Failure, Hello, Routing, WorkerAt, loads
from ranksmith.serve.oip.signature import quoted
from ranksmith.serve.tasks import Tasks
from ranksmith.serve.transport import Link, connect

__all__ = ["Pool"]

_RETRY_S = 0.05
# Half of what is expected to be answered exactly at its deadline would be late.
_MARGIN = 1.25


_STATUS = {"invalid": 400, "deadline": 504, "unavailable": 503, "internal": 500}


@dataclass(eq=False)
class Pool:
    """
    Attributes:
        models: of every model the active generation, once a worker of it has been heard.
        routed: set by `route`.
        most_rows: that are held, in flight or not.
        counts: every request is counted here, from when it is admitted or refused.
    """

    most_rows: int = 1024
    counts: SharedCounts = field(default_factory=SharedCounts)
    models: dict[str, Served] = field(default_factory=dict)
    routed: asyncio.Event = field(default_factory=asyncio.Event)
    _names: set[str] = field(default_factory=set)
    _active: dict[str, int] = field(default_factory=dict)
    _stations: dict[tuple[str, int], Station] = field(default_factory=dict)
    _workers: dict[int, Worker] = field(default_factory=dict)
    _listed: set[int] = field(default_factory=set)
    _held: dict[int, Pending] = field(default_factory=dict)
    _rows: int = 0
    _numbers: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)
    _tasks: Tasks = field(default_factory=Tasks)
    _log: Any = field(default_factory=lambda: structlog.get_logger("ranksmith.frontend"))

    def __post_init__(self) -> None:
        self._deadlines = Deadlines(self._held, self._expire)

    def route(self, routing: Routing) -> None:
        """Take note of the workers there are now."""
        self._active = dict(routing.active)
        self.routed.set()
        self._names |= set(routing.active)
        self._listed = {at.worker for at in routing.workers}
        for at in routing.workers:
            if at.worker not in self._workers:
                self._begin(at)
        for worker in [each for number, each in self._workers.items() if number not in self._listed]:
            if worker.link is None:
                del self._workers[worker.at.worker]
        for key in [key for key, station in self._stations.items() if station.is_idle and not self._is_wanted(key)]:
            del self._stations[key]
        self._update()

    def is_known(self, name: str) -> bool:
        """Whether there is, or will be, a model of this name."""
        return name in self._names

    def is_ready(self, name: str) -> bool:
        """Whether a worker of the model's active generation is there."""
        station = self._stations.get((name, self._active.get(name, 0)))
        return station is not None and bool(station.workers)

    @property
    def is_all_ready(self) -> bool:
        """Whether every model is."""
        return bool(self._names) and all(self.is_ready(name) for name in self._names)

    def known(self, name: str) -> str:
        """The name.

        Raises:
            RefusedError: there is no such model.
        """
        if not self.is_known(name):
            raise RefusedError(404, f"there is no model {quoted(name)}")
        return name

    def served(self, name: str, version: str | None = None) -> Served:
        """The model, which has to be of that version where one is given.

        Raises:
            RefusedError: there is none, it has not been heard of yet, or it has another version.
        """
        served = self.models.get(self.known(name))
        if served is None:
            raise RefusedError(503, f"the model {name!r} is not ready", retry_after_s=1.0)
        if version is not None and version != str(served.generation):
            raise RefusedError(404, f"the model {name!r} has no version {quoted(version)}")
        return served

    @property
    def drained(self) -> dict[str, int] | None:
        """The active generations by model, if every request that is held is of one of them; else None."""
        held = {(station.name, station.generation) for station in self._stations.values() if station.is_busy}
        return dict(self._active) if all(self._active.get(name) == number for name, number in held) else None

    @property
    def names(self) -> list[str]:
        return sorted(self._names)

    def reply(
        self, name: str, kind: Kind, tensors: tuple[Tensor, ...], ask: Ask, *, rows: int, deadline_s: float
    ) -> asyncio.Future[Reply]:
        """As `submit`, for who waits for the answer; cancelling it cancels the request.

        Raises:
            RefusedError: as `submit` does, and as the future will.
        """
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def over(outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, RefusedError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        pending = self.submit(name, kind, tensors, ask, rows=rows, deadline_s=deadline_s, over=over)

        def done(future: asyncio.Future[Reply]) -> None:
            if future.cancelled():
                self.cancel(pending)

        future.add_done_callback(done)
        return future

    def submit(
        self,
        name: str,
        kind: Kind,
        tensors: tuple[Tensor, ...],
        ask: Ask,
        *,
        rows: int,
        deadline_s: float,
        over: Callable[[Outcome], None],
        alike: Hashable = None,
        client: Client | None = None,
    ) -> Pending:
        """Have a request answered by whichever worker lives to do it.

        Args:
            deadline_s: on CLOCK_MONOTONIC.
            over: is given the reply, or why there is none, unless the request is cancelled; not before this has
                returned.
            alike, client: see `Pending`.

        Raises:
            RefusedError: that it cannot be answered in time is known already.
        """
        station = self._station(name, self._active[name])
        counts = self.counts.own(name, station.generation)
        now = time.monotonic()
        try:
            alone_s = self._admit(station, rows, deadline_s - now)
        except RefusedError as error:
            counts.failed(error.status, time.monotonic() - now)
            raise
        counts.begun()
        number = self._numbers()
        model = name, station.generation
        pending = Pending(number, model, kind, tensors, ask, rows, deadline_s, over, alike, now, alone_s, client)
        self._held[number] = pending
        self._rows += rows
        station.add(pending)
        self._deadlines.add(number, deadline_s)
        return pending

    def turn_away(self, name: str, version: str | None) -> RefusedError | None:
        """Why no request for this model can be admitted now, whatever it asks, which then counts as refused.

        Raises:
            RefusedError: as `served` does.
        """
        if self._rows < self.most_rows:
            return None
        self.served(name, version)
        refused = _too_many()
        self.counts.own(name, self._active[name]).failed(refused.status, 0.0)
        return refused

    def cancel(self, pending: Pending) -> None:
        """Nobody waits for it any more: free its rows before they are computed."""
        if self._held.pop(pending.number, None) is not None:
            self._rows -= pending.rows
            self.counts.own(*pending.model).ended()
            self._stations[pending.model].withdraw(pending)

    def _finish(self, pending: Pending, outcome: Outcome) -> None:
        if self._held.pop(pending.number, None) is None:
            return
        self._rows -= pending.rows
        counts = self.counts.own(*pending.model)
        counts.ended()
        if isinstance(outcome, RefusedError):
            counts.failed(outcome.status, time.monotonic() - pending.since_s)
        try:
            pending.over(outcome)
        except Exception:
            # What becomes of one answer is no matter of the others'.
            self._log.exception("a bug", request_id=pending.ask.id)

    def _expire(self, number: int) -> None:
        pending = self._held[number]
        station = self._stations[pending.model]
        station.observe(pending)
        station.withdraw(pending)
        self._finish(pending, RefusedError(504, "the request was not answered by its deadline"))

    def _admit(self, station: Station, rows: int, left_s: float) -> float:
        """Refuse at the door what cannot be answered in time; else what `Pace.alone_s` says."""
        if self._rows + rows > self.most_rows:
            raise _too_many()
        pace = station.pace
        if pace is None or not station.workers:
            return 0.0
        alone_s = pace.alone_s(station.ahead, rows)
        expected_s = alone_s * pace.factor
        if expected_s * _MARGIN > left_s:
            raise RefusedError(
                503, "too much is waiting to answer in time", retry_after_s=max(1.0, expected_s), is_overload=True
            )
        return alone_s

    def _station(self, name: str, generation: int) -> Station:
        found = self._stations.get((name, generation))
        if found is None:
            found = self._stations[name, generation] = Station(name, generation)
        return found

    def _is_wanted(self, key: tuple[str, int]) -> bool:
        name, generation = key
        is_coming = any((worker.at.name, worker.at.generation) == key for worker in self._workers.values())
        return is_coming or self._active.get(name) == generation

    def _begin(self, at: WorkerAt) -> None:
        worker = self._workers[at.worker] = Worker(at)
        self._tasks.start(self._connect(worker))

    async def _connect(self, worker: Worker) -> None:
        """Until it is there; the supervisor says when it is not to be expected any more."""
        while self._workers.get(worker.at.worker) is worker and worker.link is None:
            try:
                await connect(
                    worker.at.path,
                    on_frame=lambda link, frame: self._on_frame(worker, link, frame),
                    on_lost=lambda link, error: self._on_lost(worker),
                )
                return
            except OSError:
                await asyncio.sleep(_RETRY_S)

    def _on_frame(self, worker: Worker, link: Link, frame: Frame) -> None:
        if self._workers.get(worker.at.worker) is not worker:
            # The supervisor has said that it is not to be expected any more.
            link.close()
            return
        station = self._station(worker.at.name, worker.at.generation)
        if frame.kind is Kind.HELLO:
            worker.link = link
            station.join(worker, loads(frame.meta, Hello))
            self._update()
            return
        outcomes = _outcomes(frame)
        given_back = station.answered(worker, frame.requests)
        over = [(pending, outcome) for pending, outcome in zip(given_back, outcomes, strict=True) if pending]
        if not over:
            return
        first, outcome = over[0]
        station.observe(first)
        if not isinstance(outcome, RefusedError):
            now = time.monotonic()
            rows, seconds = sum([each.rows for each, _ in over]), [now - each.since_s for each, _ in over]
            self.counts.own(station.name, station.generation).answered(outcome.answer, rows, seconds)
        for pending, outcome in over:
            self._finish(pending, outcome)

    def _on_lost(self, worker: Worker) -> None:
        """Send what was in flight once more; what is known to have killed the worker gets an error."""
        worker.link = None
        if self._workers.pop(worker.at.worker, None) is None:
            # The supervisor said so first; nothing had been sent there yet.
            return
        if worker.at.worker in self._listed:
            # Only the connection may be gone; if it is the worker, the supervisor will say so.
            self._begin(worker.at)
        station = self._station(worker.at.name, worker.at.generation)
        log = self._log.bind(model=worker.at.name, generation=worker.at.generation, worker=worker.at.worker)
        culprit = worker.suspect
        again = [each for each in station.leave(worker) if each is not culprit]
        if culprit is not None:
            log.error("the model crashed on a request", request_id=culprit.ask.id)
            self._finish(culprit, RefusedError(500, "the model crashed on this request"))
        for each in again:
            each.deaths += culprit is None
            if each.is_suspect and culprit is None:
                log.warning("a request runs alone, as a suspect", request_id=each.ask.id)
        if again:
            log.warning("requests run again", requests=len(again))
        station.again(again)

    def _update(self) -> None:
        for name, generation in self._active.items():
            station = self._station(name, generation)
            known = self.models.get(name)
            if station.hello is not None and (known is None or known.generation != generation):
                self.models[name] = Served(station.hello, generation)
            station.dispatch()


def _too_many() -> RefusedError:
    return RefusedError(503, "too many requests are waiting", retry_after_s=1.0, is_overload=True)


def _outcomes(frame: Frame) -> list[Outcome]:
    """What becomes of each request of a worker's frame."""
    count = len(frame.requests)
    if frame.kind is Kind.RESULT:
        answer = loads(frame.meta, Answer)
        return [Reply(frame.generation, answer, tensors) for tensors in unstack(frame.tensors, count)]
    failure = loads(frame.meta, Failure)
    return [RefusedError(_STATUS[failure.code], failure.message) for _ in range(count)]
