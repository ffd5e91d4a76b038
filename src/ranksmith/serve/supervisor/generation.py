"""One loaded version of a model: its workers, each in its place, started again when they die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ranksmith.errors import ModelError
from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.messages import Failure, Hello, WorkerAt, WorkerSpec, dumps, loads
from ranksmith.serve.supervisor.children import Child, describe, gone
from ranksmith.serve.supervisor.restarts import Restarts
from ranksmith.serve.tasks import Tasks

__all__ = ["Generation"]

_LEAVE_S = 5.0


@dataclass(eq=False)
class _Place:
    """Where one worker runs after another."""

    at: WorkerAt
    restarts: Restarts = field(default_factory=Restarts)
    child: Child | None = None
    started_s: float = 0.0
    is_ready: bool = False


@dataclass(eq=False)
class Generation:
    """
    Attributes:
        source: path of the bundle or file that it was loaded from.
        workers: how many.
        folder: for their sockets.
        numbers: of workers, over all generations.
        on_change: told when a worker became ready or died.
        on_restart: told before another worker is started in the place of one that died.
    """

    spec: WorkerSpec
    source: str
    workers: int
    folder: Path
    numbers: Iterator[int]
    on_change: Callable[[], None]
    on_restart: Callable[[], None]
    hello: Hello | None = None
    refused: ModelError | None = None
    _places: list[_Place] = field(default_factory=list)
    _tasks: Tasks = field(default_factory=Tasks)
    _is_started: bool = False
    _ending: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def number(self) -> int:
        return self.spec.generation

    @property
    def is_ready(self) -> bool:
        """Whether all of its workers are."""
        return len(self.ready) == self.workers

    @property
    def ready(self) -> list[WorkerAt]:
        return [place.at for place in self._places if place.is_ready]

    @property
    def processes(self) -> list[int]:
        """Of the workers that are ready."""
        return [place.child.process.pid for place in self._places if place.is_ready and place.child]

    async def start(self) -> None:
        """Start the workers; returns when all are warm.

        Raises:
            ModelError: the model was refused, or a worker died of it. Nothing of it is left running.
        """
        try:
            for _ in range(self.workers):
                place = _Place(self._next())
                self._places.append(place)
                await self._start(place)
            while not self.is_ready:
                if self.refused is not None:
                    raise self.refused
                self._changed.clear()
                await self._changed.wait()
            self._is_started = True
        except BaseException:
            await self.end()
            raise

    def _next(self) -> WorkerAt:
        number = next(self.numbers)
        path = str(self.folder / f"worker-{number}.sock")
        return WorkerAt(worker=number, name=self.spec.name, generation=self.number, path=path)

    async def _start(self, place: _Place) -> None:
        place.is_ready, place.started_s = False, time.monotonic()
        place.child = await Child.start(
            "ranksmith.serve.worker",
            [dumps(self.spec).decode(), place.at.path],
            on_frame=lambda frame: self._told(place, frame),
            on_exit=lambda status: self._exited(place, status),
        )

    def _told(self, place: _Place, frame: Frame) -> None:
        if frame.kind is Kind.HELLO:
            place.is_ready, self.hello = True, loads(frame.meta, Hello)
            took_s = round(time.monotonic() - place.started_s, 3)
            self._log.info("worker ready", worker=place.at.worker, took_s=took_s)
            self.on_change()
        elif frame.kind is Kind.FAILURE:
            failure = loads(frame.meta, Failure)
            self.refused = ModelError(failure.message, hint=failure.hint)
        self._changed.set()

    def _exited(self, place: _Place, status: int) -> None:
        was_ready, place.is_ready, place.child = place.is_ready, False, None
        Path(place.at.path).unlink(missing_ok=True)
        if not self._is_started:
            died = f"{self.spec.name}: the worker died while it was loaded: {describe(status)}"
            self.refused = self.refused or ModelError(died)
        elif not self._ending:
            wait_s = place.restarts.after(time.monotonic() - place.started_s, was_ready=was_ready)
            self._log.warning("worker died", worker=place.at.worker, status=describe(status), again_in_s=wait_s)
            if wait_s is not None:
                self.on_restart()
                place.at = self._next()
                self._later(wait_s, place)
            self.on_change()
        self._changed.set()

    def _later(self, wait_s: float, place: _Place) -> None:
        async def start() -> None:
            await asyncio.sleep(wait_s)
            if not self._ending:
                await self._start(place)

        self._tasks.start(start())

    async def end(self) -> None:
        """End the workers; they must not hold requests any more."""
        self._ending = True
        self._tasks.cancel()
        children = [place.child for place in self._places if place.child]
        for child in children:
            # The end of the socket is what a worker takes for the end.
            child.link.close()
        await gone(children, _LEAVE_S)

    @property
    def _log(self) -> structlog.stdlib.BoundLogger:
        found: structlog.stdlib.BoundLogger = structlog.get_logger("ranksmith.supervisor")
        return found.bind(model=self.spec.name, generation=self.number)
