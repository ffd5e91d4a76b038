"""The worker's loop: requests come in over links, wait in the batcher, run in the session, and go back.

One thread runs the event loop, one the session, a few decode images while the session runs. The session takes what
waits as soon as it is idle; while it runs, the next batch gathers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import structlog

from ranksmith.errors import DataError, ModelError, RanksmithError
from ranksmith.serve.batcher import Batcher, Entry
from ranksmith.serve.frames import Frame, Kind, Tensor
from ranksmith.serve.messages import Answer, Ask, Code, Failure, dumps, loads
from ranksmith.serve.oip.datatypes import datatype_name
from ranksmith.serve.tasks import Tasks
from ranksmith.serve.transport import Link, LinkClosedError
from ranksmith.serve.worker.images import row_of
from ranksmith.serve.worker.model import Feeds, ServedModel

__all__ = ["WorkerLoop"]

_DECODERS = 2


@dataclass(eq=False)
class _Request:
    link: Link
    frame: Frame
    ask: Ask
    feeds: Feeds
    rows: int
    arrived_s: float
    decode_ms: float

    @property
    def is_image(self) -> bool:
        return self.frame.kind is Kind.IMAGE


@dataclass(eq=False)
class WorkerLoop:
    """Everything that a worker holds while it serves."""

    model: ServedModel
    _waiting: dict[Hashable, _Request] = field(default_factory=dict)
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: Tasks = field(default_factory=Tasks)

    def __post_init__(self) -> None:
        self._batcher = Batcher(self.model.curve, limit=self.model.limit)
        spec = self.model.spec
        self._log = structlog.get_logger("ranksmith.worker").bind(model=spec.name, generation=spec.generation)
        self._session = ThreadPoolExecutor(1, thread_name_prefix="session")
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")

    def on_link(self, link: Link) -> None:
        """A front end has come: it is told what is served here."""
        link.send(Frame(Kind.HELLO, generation=self.model.spec.generation, meta=dumps(self.model.hello)))

    def on_lost(self, link: Link, error: Exception | None) -> None:
        """A front end has gone: nobody waits for its answers any more."""
        for key in [key for key, request in self._waiting.items() if request.link is link]:
            self._forget(key)

    def on_frame(self, link: Link, frame: Frame) -> None:
        """
        Raises:
            msgspec.DecodeError: the front end speaks another language than we do, so the link is given up.
        """
        if frame.kind is Kind.CANCEL:
            self._forget((link, frame.request))
        elif frame.kind in (Kind.INFER, Kind.IMAGE):
            ask = loads(frame.meta or b"{}", Ask)
            if frame.kind is Kind.INFER:
                self._add(link, frame, ask, self.model.feeds(frame.tensors))
            else:
                self._tasks.start(self._decode(link, frame, ask))

    async def _decode(self, link: Link, frame: Frame, ask: Ask) -> None:
        if self.model.preprocess is None:
            self._fail(link, frame, "invalid", f"{self.model.spec.name} takes no images")
            return
        loop = asyncio.get_running_loop()
        start = time.monotonic()
        try:
            encoded = bytes(frame.tensors[0].data)
            row = await loop.run_in_executor(self._decoders, row_of, encoded, self.model.preprocess)
        except DataError as error:
            self._fail(link, frame, "invalid", error.message)
            return
        except Exception:
            # Whatever an image does to a decoder, its sender hears of it, and nobody else.
            self._log.exception("an image could not be prepared", request_id=ask.id)
            self._fail(link, frame, "internal", "the image could not be prepared")
            return
        decode_ms = 1e3 * (time.monotonic() - start)
        self._add(link, frame, ask, {self.model.session.inputs[0].name: row}, decode_ms)

    def _add(self, link: Link, frame: Frame, ask: Ask, feeds: Feeds, decode_ms: float = 0.0) -> None:
        rows = next(iter(feeds.values())).shape[0] if feeds and self.model.is_batchable else 1
        now = time.monotonic()
        key = (link, frame.request)
        if rows < 1 or key in self._waiting:
            self._fail(
                link, frame, "invalid", "the request has no rows" if rows < 1 else "the request is waiting already"
            )
            return
        # Rows run together where all but the first dimension agrees.
        group = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(feeds.items()))
        if ask.alone:
            self._log.warning("a request runs alone, as a suspect", request_id=ask.id)
        self._waiting[key] = _Request(link, frame, ask, feeds, rows, now, decode_ms)
        self._batcher.add(
            Entry(
                key,
                rows,
                group,
                now,
                frame.deadline_s or None,
                alone=ask.alone or not self.model.is_batchable,
            )
        )
        self._work.set()

    def _forget(self, key: Hashable) -> None:
        if self._waiting.pop(key, None) is not None:
            self._batcher.cancel(key)

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._sleep()
            now = time.monotonic()
            for entry in self._batcher.expired(now):
                late = self._waiting.pop(entry.key)
                self._fail(late.link, late.frame, "deadline", "the deadline passed before the request could be run")
            batch = [self._waiting.pop(entry.key) for entry in self._batcher.take(now)]
            if batch:
                await loop.run_in_executor(self._session, self._compute, batch, loop)

    async def _sleep(self) -> None:
        """Until there may be something to run."""
        if len(self._batcher):
            wake = self._batcher.wake_s(time.monotonic())
            timeout = 0.0 if wake is None else max(0.0, wake - time.monotonic())
            if timeout == 0.0:
                # Let what has arrived on the links join the batch.
                await asyncio.sleep(0)
                return
        else:
            timeout = None
        self._work.clear()
        try:
            await asyncio.wait_for(self._work.wait(), timeout)
        except TimeoutError:
            return

    def _compute(self, batch: list[_Request], loop: asyncio.AbstractEventLoop) -> None:
        """Run one batch, in the session's thread, and hand every request its rows."""
        start = time.monotonic()
        names = list(dict.fromkeys(name for request in batch for name in request.ask.outputs))
        if any(not request.ask.outputs for request in batch):
            names = []
        try:
            feeds = batch[0].feeds if len(batch) == 1 else _joined([request.feeds for request in batch])
            outputs = self.model.run(feeds, names)
        except ModelError as error:
            loop.call_soon_threadsafe(self._failed, batch, error)
            return
        compute_ms = 1e3 * (time.monotonic() - start)
        frames = self._answers(batch, outputs, start, compute_ms)
        loop.call_soon_threadsafe(self._send, list(zip(batch, frames, strict=True)), compute_ms)

    def _answers(self, batch: list[_Request], outputs: dict[str, Any], start: float, compute_ms: float) -> list[Frame]:
        frames = []
        first = 0
        rows = sum(request.rows for request in batch)
        for request in batch:
            part = slice(first, first + request.rows) if self.model.is_batchable else slice(None)
            first += request.rows
            own = {name: array[part] for name, array in outputs.items() if name in (request.ask.outputs or outputs)}
            answer = Answer(
                queue_ms=1e3 * (start - request.arrived_s),
                compute_ms=compute_ms,
                rows=rows,
                decode_ms=request.decode_ms,
            )
            tensors: tuple[Tensor, ...] = ()
            if request.is_image:
                logits = outputs[self.model.session.outputs[0].name][part]
                predictions = self.model.predictions(logits[0], request.ask.top_k)
                answer = msgspec.structs.replace(answer, predictions=predictions)
            else:
                tensors = tuple(_tensor(name, array) for name, array in own.items())
            frames.append(
                Frame(
                    Kind.RESULT,
                    request.frame.request,
                    self.model.spec.generation,
                    meta=dumps(answer),
                    tensors=tensors,
                )
            )
        return frames

    def _send(self, answers: list[tuple[_Request, Frame]], compute_ms: float) -> None:
        self._batcher.observe(sum(request.rows for request, _ in answers), compute_ms)
        for request, frame in answers:
            _tell(request.link, frame)

    def _failed(self, batch: list[_Request], error: RanksmithError) -> None:
        for request in batch:
            self._log.error("the model could not be run", request_id=request.ask.id, why=error.message)
            self._fail(request.link, request.frame, "internal", "the model could not be run on this request")

    def _fail(self, link: Link, frame: Frame, code: Code, message: str) -> None:
        failure = dumps(Failure(code=code, message=message))
        _tell(link, Frame(Kind.FAILURE, frame.request, self.model.spec.generation, meta=failure))


def _tell(link: Link, frame: Frame) -> None:
    try:
        link.send(frame)
    except LinkClosedError:
        # Who asked has gone; `on_lost` forgets the rest.
        return


def _joined(feeds: list[Feeds]) -> Feeds:
    return {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}


def _tensor(name: str, array: Any) -> Tensor:
    whole = np.ascontiguousarray(array)
    return Tensor(name, datatype_name(whole.dtype), whole.shape, whole.reshape(-1).view(np.uint8).data)
