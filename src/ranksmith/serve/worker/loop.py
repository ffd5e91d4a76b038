"""The worker's loop: requests come in over links, wait in the batcher, run in the session, and go back.

One thread runs the event loop, one the session, a few decode images while the session runs. The session is given what
waits as soon as it is idle; what it has answered is sent while it runs the next batch. A batch of a few milliseconds is
run by the event loop's own thread: two threads that wake each other, with caches that the session has emptied, cost
a millisecond.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import structlog

from ranksmith.errors import DataError
from ranksmith.serve.batcher import Batcher, Entry
from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.messages import Ask, Code, Failure, dumps, loads
from ranksmith.serve.tasks import Tasks
from ranksmith.serve.transport import Link, LinkClosedError
from ranksmith.serve.worker.answers import answers
from ranksmith.serve.worker.core import Core
from ranksmith.serve.worker.images import row_of
from ranksmith.serve.worker.model import Feeds, ServedModel
from ranksmith.serve.worker.request import Request
from ranksmith.serve.worker.runner import Done, Runner

__all__ = ["WorkerLoop"]

_DECODERS = 2
# So long may cancelled requests and images to decode wait to be read, and so much do sockets hold meanwhile.
_HERE_MS = 25.0
_HERE_BYTES = 2**20


@dataclass(eq=False)
class WorkerLoop:
    """Everything that a worker holds while it serves."""

    model: ServedModel
    _waiting: dict[Link, dict[int, Request]] = field(default_factory=dict)
    _tasks: Tasks = field(default_factory=Tasks)
    _is_running: bool = False
    _is_woken: bool = False
    _alarm: asyncio.TimerHandle | None = None
    _core: Core = field(default_factory=Core)

    def __post_init__(self) -> None:
        self._batcher = Batcher(self.model.curve, limit=self.model.limit)
        spec = self.model.spec
        self._log = structlog.get_logger("ranksmith.worker").bind(model=spec.name, generation=spec.generation)
        self._runner: Runner[list[Request], Feeds] = Runner(self._run, self._ran)
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")

    def start(self) -> None:
        """From within the event loop."""
        self._runner.start(asyncio.get_running_loop())

    def on_link(self, link: Link) -> None:
        """A front end has come: it is told what is served here."""
        self._waiting[link] = {}
        link.send(Frame(Kind.HELLO, generation=self.model.spec.generation, meta=dumps(self.model.hello)))

    def on_lost(self, link: Link, error: Exception | None) -> None:
        """A front end has gone: nobody waits for its answers any more."""
        for request in set(self._waiting[link].values()):
            self._forget(request)
        del self._waiting[link]

    def on_frame(self, link: Link, frame: Frame) -> None:
        """
        Raises:
            msgspec.DecodeError: the front end speaks another language than we do, so the link is given up.
        """
        if frame.kind is Kind.CANCEL:
            for number in frame.requests:
                self._cancel(link, number)
        elif frame.kind in (Kind.INFER, Kind.IMAGE):
            ask = loads(frame.meta or b"{}", Ask)
            if frame.kind is Kind.INFER:
                self._add(link, frame, ask, self.model.feeds(frame.tensors))
            else:
                self._tasks.start(self._decode(link, frame, ask))

    async def _decode(self, link: Link, frame: Frame, ask: Ask) -> None:
        if self.model.preprocess is None:
            self._fail(link, frame.requests, "invalid", f"{self.model.spec.name} takes no images")
            return
        if not frame.tensors:
            self._fail(link, frame.requests, "invalid", "there is no image")
            return
        loop = asyncio.get_running_loop()
        start = time.monotonic()
        try:
            encoded = bytes(frame.tensors[0].data)
            row = await loop.run_in_executor(self._decoders, row_of, encoded, self.model.preprocess)
        except DataError as error:
            self._fail(link, frame.requests, "invalid", error.message)
            return
        except Exception:
            # Whatever an image does to a decoder, its sender hears of it, and nobody else.
            self._log.exception("an image could not be prepared", request_id=ask.id)
            self._fail(link, frame.requests, "internal", "the image could not be prepared")
            return
        decode_ms = 1e3 * (time.monotonic() - start)
        self._add(link, frame, ask, {self.model.session.inputs[0].name: row}, decode_ms)

    def _add(self, link: Link, frame: Frame, ask: Ask, feeds: Feeds, decode_ms: float = 0.0) -> None:
        waiting = self._waiting.get(link)
        if waiting is None:
            # It went while its image was decoded.
            return
        numbers = frame.requests
        rows = next(iter(feeds.values())).shape[0] if feeds and self.model.is_batchable else 1
        if rows < 1 or rows % len(numbers):
            self._fail(link, numbers, "invalid", "the request has no rows of its own")
            return
        if len(set(numbers)) < len(numbers) or not waiting.keys().isdisjoint(numbers):
            self._fail(link, numbers, "invalid", "the request is waiting already")
            return
        if ask.alone:
            self._log.warning("a request runs alone, as a suspect", request_id=ask.id)
        is_image = frame.kind is Kind.IMAGE
        self._queue(
            Request(link, numbers, ask, feeds, rows, time.monotonic(), frame.deadline_s, is_image, decode_ms),
            alone=ask.alone,
        )

    def _queue(self, request: Request, *, alone: bool) -> None:
        self._waiting[request.link].update(dict.fromkeys(request.numbers, request))
        self._batcher.add(
            Entry(
                request,
                request.rows,
                _group(request.feeds),
                request.arrived_s,
                request.deadline_s or None,
                alone=alone or not self.model.is_batchable,
            )
        )
        self._wake()

    def _cancel(self, link: Link, number: int) -> None:
        """One request is not to be run, unless it runs already; those of the same frame keep their place."""
        request = self._waiting[link].get(number)
        if request is None:
            return
        if len(request.numbers) == 1:
            self._forget(request)
            return
        del self._waiting[link][number]
        request.drop(number)
        self._batcher.shrink(request, request.rows)

    def _forget(self, request: Request) -> None:
        self._take(request)
        self._batcher.cancel(request)

    def _take(self, request: Request) -> None:
        """It does not wait any more."""
        waiting = self._waiting[request.link]
        for number in request.numbers:
            del waiting[number]

    def _wake(self) -> None:
        """Look at the queue once what has arrived with this has joined it."""
        if not self._is_running and not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Give the session what waits, if it is idle and waiting longer does not pay."""
        self._is_woken = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._is_running or not self._batcher.rows:
            return
        now = time.monotonic()
        for entry in self._batcher.expired(now):
            late: Request = entry.key
            self._take(late)
            message = "the deadline passed before the request could be run"
            self._fail(late.link, late.numbers, "deadline", message)
        batch: list[Request] = [entry.key for entry in self._batcher.take(now)]
        for request in batch:
            self._take(request)
        if batch and self._is_short(batch):
            self._run_here(batch)
        elif batch:
            self._is_running = True
            self._runner.give(batch)
        elif (wake_s := self._batcher.wake_s(now)) is not None:
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, wake_s - now), self._look)

    def _run(self, batch: list[Request]) -> Feeds:
        """In the session's thread."""
        wanted = [] if any(not each.ask.outputs for each in batch) else [each.ask.outputs for each in batch]
        names = list(dict.fromkeys(name for outputs in wanted for name in outputs))
        feeds = batch[0].feeds if len(batch) == 1 else _joined([request.feeds for request in batch])
        return self.model.run(feeds, names)

    def _is_short(self, batch: list[Request]) -> bool:
        """Whether the event loop can do without its thread while it runs."""
        rows = sum(request.rows for request in batch)
        size = sum(array.nbytes for request in batch for array in request.feeds.values())
        return self._batcher.curve.ms(rows) <= _HERE_MS and size <= _HERE_BYTES

    def _run_here(self, batch: list[Request]) -> None:
        """In the event loop's thread."""
        done = self._runner.now(batch)
        self._learn(done)
        self._answer(done)
        # Not at once: first comes what has arrived.
        self._wake()

    def _ran(self, done: Done[list[Request], Feeds]) -> None:
        self._is_running = False
        self._learn(done)
        # The session first: while it runs, there is time for answers.
        self._look()
        self._answer(done)

    def _learn(self, done: Done[list[Request], Feeds]) -> None:
        if isinstance(done.result, Exception):
            self._failed(done.batch, done.result)
        else:
            self._batcher.observe(sum(request.rows for request in done.batch), done.took_ms)

    def _answer(self, done: Done[list[Request], Feeds]) -> None:
        if not isinstance(done.result, Exception):
            self._send(done.batch, answers(self.model, done.batch, done.result, done.started_s, done.took_ms))

    def _send(self, batch: list[Request], frames: list[Frame]) -> None:
        by_link: defaultdict[Link, list[Frame]] = defaultdict(list)
        for request, frame in zip(batch, frames, strict=True):
            by_link[request.link].append(frame)
        is_leaving = not self._is_running and not self._batcher.rows
        for link, own in by_link.items():
            # The process of a closed link may be gone, and its number another's.
            if is_leaving and not link.is_closed:
                self._core.leave_to(link.peer_pid, partial(_tell, link, *own))
            else:
                _tell(link, *own)

    def _failed(self, batch: list[Request], error: Exception) -> None:
        """Tell who asked; where there are several, find out first whose request it is that cannot be run."""
        apart = [each for request in batch if request.link in self._waiting for each in request.apart()]
        for request in apart:
            if len(apart) > 1:
                self._queue(request, alone=True)
                continue
            self._log.error("the model could not be run", request_id=request.ask.id, why=str(error))
            self._fail(request.link, request.numbers, "internal", "the model could not be run on this request")

    def _fail(self, link: Link, numbers: tuple[int, ...], code: Code, message: str) -> None:
        failure = dumps(Failure(code=code, message=message))
        _tell(link, Frame(Kind.FAILURE, numbers[0], self.model.spec.generation, meta=failure, others=numbers[1:]))


def _tell(link: Link, *frames: Frame) -> None:
    try:
        link.send(*frames)
    except LinkClosedError:
        # Who asked has gone; `on_lost` forgets the rest.
        return


def _group(feeds: Feeds) -> Hashable:
    """Rows run together where all but the first dimension agrees."""
    return tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(feeds.items()))


def _joined(feeds: list[Feeds]) -> Feeds:
    return {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}
