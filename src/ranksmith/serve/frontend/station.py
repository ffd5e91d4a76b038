"""One generation of a model: the workers that run it, and the requests that wait for one of them.

Requests that are alike and small share a frame, as many as are worth running together: what one costs on both sides is
less than half of that then. So a worker that has nothing is given what waits at once, and one that has something only
what makes another full batch; nothing is lost by that, as sending takes a small part of the time that a batch takes.
Other requests are sent as they come.

No worker is given more than it runs now and next. The rest stays here: it can be cancelled, and goes to whoever is
ready first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter

import msgspec

from ranksmith.serve.cost import CostCurve
from ranksmith.serve.frames import Frame, Kind, stack
from ranksmith.serve.frontend.held import Pending, Worker
from ranksmith.serve.frontend.pace import Pace
from ranksmith.serve.messages import Hello, dumps
from ranksmith.serve.transport import LinkClosedError

__all__ = ["Station"]

# The first deadline of a frame is that of all of them: so much of the time left may the others lose by that.
_SHARE_OF_DEADLINE = 0.02

_rows = attrgetter("rows")


@dataclass(eq=False)
class Station:
    """
    Attributes:
        workers: that are linked.
        hello, pace: once one of them has been heard.
        queued_rows: of the requests that no worker has.
    """

    name: str
    generation: int
    workers: list[Worker] = field(default_factory=list)
    hello: Hello | None = None
    pace: Pace | None = None
    queued_rows: int = 0
    _queue: deque[Pending] = field(default_factory=deque)
    _limit: int = 1
    _is_woken: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether nobody is here, and nothing waits."""
        return not self.workers and not self._queue

    @property
    def is_busy(self) -> bool:
        """Whether a request waits or runs."""
        return bool(self._queue) or any(worker.pending for worker in self.workers)

    @property
    def ahead(self) -> int:
        """Rows before a new one, where the worker has fewest of them."""
        workers = self.workers
        return (self.queued_rows + sum(map(_rows, workers))) // len(workers) if workers else 0

    def join(self, worker: Worker, hello: Hello) -> None:
        """A worker is there."""
        self.workers.append(worker)
        self.hello = hello
        self._limit = max(hello.limit, 1)
        if self.pace is None:
            self.pace = Pace(CostCurve(hello.alpha_ms, hello.beta_ms), self._limit)
        self.dispatch()

    def add(self, pending: Pending) -> None:
        self._queue.append(pending)
        self.queued_rows += pending.rows
        self._wake()

    def withdraw(self, pending: Pending) -> None:
        """It is not to be run, unless it runs already."""
        worker = pending.worker
        if worker is None:
            self._queue.remove(pending)
            self.queued_rows -= pending.rows
            return
        worker.give_back(pending.number)
        try:
            if worker.link is not None:
                worker.link.send(Frame(Kind.CANCEL, pending.number, self.generation))
        except LinkClosedError:
            return
        self._wake()

    def observe(self, pending: Pending) -> None:
        """Learn from a request that is over."""
        if self.pace is not None and pending.alone_s and not pending.deaths:
            self.pace.observe(pending.alone_s, time.monotonic() - pending.since_s)

    def leave(self, worker: Worker) -> list[Pending]:
        """A worker is gone: what it had, which is to be run again or not."""
        if worker in self.workers:
            self.workers.remove(worker)
        left = list(worker.pending.values())
        for pending in left:
            worker.give_back(pending.number)
        return left

    def again(self, pending: list[Pending]) -> None:
        """Run requests once more, before those that wait; those that a worker may have died of, after them."""
        ordered = sorted(pending, key=attrgetter("deaths"))
        self._queue.extendleft(reversed([each for each in ordered if not each.is_suspect]))
        self._queue.extend(each for each in ordered if each.is_suspect)
        self.queued_rows += sum(map(_rows, ordered))
        self.dispatch()

    def _wake(self) -> None:
        """Look at the queue once what arrives with this has joined it."""
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._woken)

    def _woken(self) -> None:
        self._is_woken = False
        self.dispatch()

    def dispatch(self) -> None:
        """Give workers what they have room for."""
        while self._queue:
            first = self._queue[0]
            # One suspect at a time: if the worker dies, it is known of what.
            workers = [each for each in self.workers if each.suspect is None] if first.is_suspect else self.workers
            if not workers:
                return
            worker = min(workers, key=_rows)
            if first.is_suspect:
                self._send(worker, [self._queue.popleft()])
            elif self._has_room(worker, first):
                self._send(worker, self._batch())
            else:
                return

    def _has_room(self, worker: Worker, first: Pending) -> bool:
        if worker.rows == 0:
            return True
        if worker.rows >= 2 * self._limit:
            return False
        return self.queued_rows >= self._limit or first.alike is None

    def _batch(self) -> list[Pending]:
        """The first of the queue, and as many of the next as are worth running with it."""
        batch = [self._queue.popleft()]
        rows = batch[0].rows
        while self._queue:
            following = self._queue[0]
            rows += following.rows
            if rows > self._limit or following.is_suspect:
                break
            batch.append(self._queue.popleft())
        return batch

    def _send(self, worker: Worker, batch: list[Pending]) -> None:
        groups: list[list[Pending]] = []
        for pending in batch:
            self.queued_rows -= pending.rows
            worker.take(pending)
            if groups and _share_frame(groups[-1][0], pending):
                groups[-1].append(pending)
            else:
                groups.append([pending])
        try:
            assert worker.link is not None
            worker.link.send(*map(self._frame, groups))
        except LinkClosedError:
            # That it is lost is told next, and what is in flight is sent elsewhere.
            return

    def _frame(self, group: list[Pending]) -> Frame:
        first, *others = group
        ask = first.ask
        if others:
            ask = msgspec.structs.replace(ask, ids=[name for each in group for name in each.ask.ids])
        elif first.is_suspect:
            ask = msgspec.structs.replace(ask, alone=True)
        return Frame(
            first.kind,
            first.number,
            self.generation,
            min(each.deadline_s for each in group),
            dumps(ask),
            stack([each.tensors for each in group]),
            tuple(each.number for each in others),
        )


def _share_frame(first: Pending, pending: Pending) -> bool:
    return (
        pending.alike is not None
        and pending.alike == first.alike
        and abs(pending.deadline_s - first.deadline_s) <= _SHARE_OF_DEADLINE * (first.deadline_s - first.since_s)
    )
