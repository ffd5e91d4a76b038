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
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from ranksmith.serve.cost import CostCurve
from ranksmith.serve.frames import Frame, Kind, Tensor
from ranksmith.serve.frontend.held import Pending, Worker
from ranksmith.serve.frontend.pace import Pace
from ranksmith.serve.frontend.reply import RefusedError, Reply
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.messages import Answer, Ask, Failure, Hello, Routing, WorkerAt, dumps, loads
from ranksmith.serve.oip.signature import quoted
from ranksmith.serve.tasks import Tasks
from ranksmith.serve.transport import Link, LinkClosedError, connect

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
        held_rows: most rows that are kept waiting, in flight or not.
    """

    held_rows: int = 1024
    models: dict[str, Served] = field(default_factory=dict)
    routed: asyncio.Event = field(default_factory=asyncio.Event)
    _names: set[str] = field(default_factory=set)
    _active: dict[str, int] = field(default_factory=dict)
    _hellos: dict[tuple[str, int], Hello] = field(default_factory=dict)
    _workers: dict[int, Worker] = field(default_factory=dict)
    _paces: dict[tuple[str, int], Pace] = field(default_factory=dict)
    _queues: dict[tuple[str, int], deque[Pending]] = field(default_factory=dict)
    _listed: set[int] = field(default_factory=set)
    _queued_rows: int = 0
    _ids: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)
    _tasks: Tasks = field(default_factory=Tasks)
    _log: Any = field(default_factory=lambda: structlog.get_logger("ranksmith.frontend"))

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
        self._update()

    def is_known(self, name: str) -> bool:
        """Whether there is, or will be, a model of this name."""
        return name in self._names

    def is_ready(self, name: str) -> bool:
        """Whether a worker of the model's active generation is there."""
        return any(self._serves(worker, name, self._active.get(name, 0)) for worker in self._workers.values())

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
        if version not in (None, str(served.generation)):
            raise RefusedError(404, f"the model {name!r} has no version {quoted(version or '')}")
        return served

    @property
    def drained(self) -> dict[str, int] | None:
        """The active generations by model, if every request that is held is of one of them; else None."""
        waiting = [each for worker in self._workers.values() for each in worker.pending.values()]
        waiting += [each for queue in self._queues.values() for each in queue]
        held = {(each.name, each.generation) for each in waiting}
        return dict(self._active) if all(self._active.get(name) == number for name, number in held) else None

    @property
    def names(self) -> list[str]:
        return sorted(self._names)

    def submit(
        self, name: str, kind: Kind, tensors: tuple[Tensor, ...], ask: Ask, *, rows: int, deadline_s: float
    ) -> asyncio.Future[Reply]:
        """The answer to come, from whichever worker lives to give it; a `RefusedError` if none does in time.

        Cancelling it frees the request's rows before they are computed.

        Args:
            deadline_s: on CLOCK_MONOTONIC.

        Raises:
            RefusedError: that it cannot be answered in time is known already.
        """
        generation = self._active[name]
        now = time.monotonic()
        alone_s = self._admit(name, generation, rows, deadline_s - now)
        loop = asyncio.get_running_loop()
        pending = Pending(
            name, self._ids(), kind, tensors, ask, rows, generation, deadline_s, loop.create_future(), now, alone_s
        )
        self._queues.setdefault((name, generation), deque()).append(pending)
        self._queued_rows += rows
        self._dispatch(name, generation)
        late = loop.call_later(max(0.0, deadline_s - now), self._expire, name, pending)

        def over(future: asyncio.Future[Reply]) -> None:
            late.cancel()
            if future.cancelled():
                self._abandon(name, pending)

        pending.future.add_done_callback(over)
        return pending.future

    def _admit(self, name: str, generation: int, rows: int, left_s: float) -> float:
        """Refuse at the door what cannot be answered in time; else what `Pace.alone_s` says."""
        held = self._queued_rows + sum(worker.rows for worker in self._workers.values())
        if held + rows > self.held_rows:
            raise RefusedError(503, "too many requests are waiting", retry_after_s=1.0, is_overload=True)
        serving = [worker.rows for worker in self._workers.values() if self._serves(worker, name, generation)]
        if not serving:
            return 0.0
        pace = self._paces[name, generation]
        alone_s = pace.alone_s(min(serving), rows)
        expected_s = alone_s * pace.factor
        if expected_s * _MARGIN > left_s:
            raise RefusedError(
                503, "too much is waiting to answer in time", retry_after_s=max(1.0, expected_s), is_overload=True
            )
        return alone_s

    def _serves(self, worker: Worker, name: str, generation: int) -> bool:
        return worker.link is not None and (worker.at.name, worker.at.generation) == (name, generation)

    def _dispatch(self, name: str, generation: int) -> None:
        queue = self._queues.get((name, generation))
        while queue:
            serving = [worker for worker in self._workers.values() if self._serves(worker, name, generation)]
            if queue[0].is_suspect:
                # One at a time: if the worker dies, it is known of what.
                serving = [worker for worker in serving if worker.suspect is None]
            if not serving:
                return
            pending = queue.popleft()
            self._queued_rows -= pending.rows
            self._give(min(serving, key=lambda worker: worker.rows), pending)

    def _give(self, worker: Worker, pending: Pending) -> None:
        ask = msgspec.structs.replace(pending.ask, alone=pending.is_suspect)
        frame = Frame(
            pending.kind, pending.request, pending.generation, pending.deadline_s, dumps(ask), pending.tensors
        )
        worker.take(pending)
        try:
            assert worker.link is not None
            worker.link.send(frame)
        except LinkClosedError:
            # `_on_lost` has what is in flight sent elsewhere.
            return

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
        if frame.kind is Kind.HELLO:
            worker.link = link
            hello = loads(frame.meta, Hello)
            self._hellos[worker.at.name, worker.at.generation] = hello
            pace = Pace(CostCurve(hello.alpha_ms, hello.beta_ms), hello.limit)
            self._paces.setdefault((worker.at.name, worker.at.generation), pace)
            self._update()
            return
        pending = worker.give_back(frame.request)
        if pending is None or pending.future.done():
            return
        self._observe(pending)
        if frame.kind is Kind.RESULT:
            pending.future.set_result(Reply(frame.generation, loads(frame.meta, Answer), frame.tensors))
        else:
            failure = loads(frame.meta, Failure)
            pending.future.set_exception(RefusedError(_STATUS[failure.code], failure.message))
        if pending.is_suspect:
            self._dispatch(worker.at.name, worker.at.generation)

    def _on_lost(self, worker: Worker) -> None:
        """Send what was in flight once more; what is known to have killed the worker gets an error."""
        worker.link = None
        if self._workers.pop(worker.at.worker, None) is None:
            # The supervisor said so first; nothing had been sent there yet.
            return
        if worker.at.worker in self._listed:
            # Only the connection may be gone; if it is the worker, the supervisor will say so.
            self._begin(worker.at)
        queue = self._queues.setdefault((worker.at.name, worker.at.generation), deque())
        culprit = worker.suspect
        log = self._log.bind(model=worker.at.name, generation=worker.at.generation, worker=worker.at.worker)
        again = [each for each in worker.pending.values() if each is not culprit and not each.future.done()]
        if culprit is not None and not culprit.future.done():
            log.error("the model crashed on a request", request_id=culprit.ask.id)
            culprit.future.set_exception(RefusedError(500, "the model crashed on this request"))
        for each in again:
            each.deaths += culprit is None
            if each.is_suspect and culprit is None:
                log.warning("a request runs alone, as a suspect", request_id=each.ask.id)
        if again:
            log.warning("requests run again", requests=len(again))
        worker.pending.clear()
        # Those that nobody suspects go first.
        again.sort(key=lambda each: each.deaths)
        queue.extendleft(reversed([each for each in again if not each.is_suspect]))
        queue.extend(each for each in again if each.is_suspect)
        self._queued_rows += sum(each.rows for each in again)
        self._dispatch(worker.at.name, worker.at.generation)

    def _update(self) -> None:
        for name, generation in self._active.items():
            hello = self._hellos.get((name, generation))
            if hello is not None:
                self.models[name] = Served(hello, generation)
            self._dispatch(name, generation)

    def _observe(self, pending: Pending) -> None:
        pace = self._paces.get((pending.name, pending.generation))
        if pace is not None and pending.alone_s and not pending.deaths:
            pace.observe(pending.alone_s, time.monotonic() - pending.since_s)

    def _expire(self, name: str, pending: Pending) -> None:
        if not pending.future.done():
            self._observe(pending)
            pending.future.set_exception(RefusedError(504, "the request was not answered by its deadline"))
            self._abandon(name, pending)

    def _abandon(self, name: str, pending: Pending) -> None:
        """Nobody waits for it: free its rows before they are computed."""
        queue = self._queues.get((name, pending.generation))
        if queue and pending in queue:
            queue.remove(pending)
            self._queued_rows -= pending.rows
        for worker in self._workers.values():
            if worker.give_back(pending.request) is not None and worker.link is not None:
                try:
                    worker.link.send(Frame(Kind.CANCEL, pending.request, pending.generation))
                except LinkClosedError:
                    return
