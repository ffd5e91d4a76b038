"""One generation of a model: the workers that run it, and the requests that wait for one of them.

Requests that are alike and small share a frame: what one costs on both sides is less than half of that then. A full
batch is as many as are worth running together, or a worker's share of all there are, if that is less. A worker that has
nothing is given what waits at once, unless a full batch can be expected (see `returning`); one that has something, only
what makes another full batch. Nothing is lost by that, as sending takes a small part of the time that a batch takes.
Other requests are sent as they come.

No worker is given more than it runs now and next. The rest stays here: it can be cancelled, and goes to whoever is
ready first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import msgspec

from ranksmith.serve.cost import CostCurve
from ranksmith.serve.frames import Frame, Kind, stack
from ranksmith.serve.frontend.held import Pending, Worker
from ranksmith.serve.frontend.pace import Pace
from ranksmith.serve.frontend.returning import Returning
from ranksmith.serve.messages import Hello, dumps
from ranksmith.serve.transport import LinkClosedError

__all__ = ["Station"]

# The first deadline of a frame is that of all of them: so much of the time left may the others lose by that.
_SHARE_OF_DEADLINE = 0.02

# So long may a worker wait for those it has answered to ask again: of the time that a full batch takes, and at most.
_PATIENCE, _PATIENCE_S = 1 / 6, 0.005

_rows = attrgetter("rows")


@dataclass(eq=False)
class Station:
    """
    Attributes:
        workers: that are linked.
        hello, pace: once one of them has been heard.
        queued_rows: of the requests that no worker has.
        returning: who is expected to ask again.
    """

    name: str
    generation: int
    workers: list[Worker] = field(default_factory=list)
    hello: Hello | None = None
    pace: Pace | None = None
    queued_rows: int = 0
    returning: Returning = field(default_factory=Returning)
    _queue: deque[Pending] = field(default_factory=deque)
    _limit: int = 1
    _is_woken: bool = False
    _alarm: asyncio.TimerHandle | None = None

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
            curve = CostCurve(hello.alpha_ms, hello.beta_ms)
            self.pace = Pace(curve, self._limit)
            self.returning.patience_s = min(_PATIENCE_S, _PATIENCE * curve.ms(self._limit) / 1e3)
        self.dispatch()

    def add(self, pending: Pending) -> None:
        """It waits for a worker."""
        if pending.client is not None:
            self.returning.asked(pending.client, pending.rows, pending.since_s)
        self._queue.append(pending)
        self.queued_rows += pending.rows
        self._wake()

    def answered(self, worker: Worker, numbers: Sequence[int]) -> list[Pending | None]:
        """The worker has answered these: the requests, None where nobody waits any more."""
        given_back = [worker.give_back(number) for number in numbers]
        clients = [each.client for each in given_back if each is not None and each.client is not None]
        if clients:
            self.returning.answered(clients, time.monotonic())
        # The worker first: while it runs, there is time for answers.
        self.dispatch()
        return given_back

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
        if first.alike is None:
            return worker.rows < 2 * self._limit
        if worker.rows == 0:
            return self.queued_rows >= self._full_rows or not self._is_worth_waiting()
        return worker.rows < 2 * self._limit and self.queued_rows >= self._limit

    @property
    def _full_rows(self) -> int:
        """Of a batch: as many as are worth running together, or a worker's share of all there are."""
        there_are: int = self.queued_rows + sum(map(_rows, self.workers)) + self.returning.rows
        return min(self._limit, -(-there_are // len(self.workers)))

    def _is_worth_waiting(self) -> bool:
        """Whether more is about to come for the only worker that has nothing; then, that it will be looked at again."""
        left_s = self.returning.left_s(time.monotonic())
        if left_s <= 0 or sum(not worker.rows for worker in self.workers) > 1:
            return False
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(left_s, self._waited)
        return True

    def _waited(self) -> None:
        self._alarm = None
        self.dispatch()

    def _batch(self) -> list[Pending]:
        """The first of the queue, and as many of the next as are worth running with it."""
        full = self._full_rows
        batch = [self._queue.popleft()]
        rows = batch[0].rows
        while self._queue:
            following = self._queue[0]
            rows += following.rows
            if rows > full or following.is_suspect:
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
