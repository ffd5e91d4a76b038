"""The session's thread: it runs one batch after another, and tells the event loop of each.

Not a `ThreadPoolExecutor`: its futures and locks cost a batch three times what a queue does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

__all__ = ["Done", "Runner"]

BatchT = TypeVar("BatchT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Done(Generic[BatchT, ResultT]):
    """A batch that has been run.

    Attributes:
        result: or what was raised.
        started_s: on CLOCK_MONOTONIC.
    """

    batch: BatchT
    result: ResultT | Exception
    started_s: float
    took_ms: float


@dataclass(eq=False)
class Runner(Generic[BatchT, ResultT]):
    """
    Attributes:
        run: called in the session's thread.
        done: called in the event loop's.
    """

    run: Callable[[BatchT], ResultT]
    done: Callable[[Done[BatchT, ResultT]], None]
    _queue: SimpleQueue[BatchT] = field(default_factory=SimpleQueue)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        # A daemon: the process may end in the middle of a batch, when nobody waits for it any more.
        Thread(target=self._work, args=(loop,), name="session", daemon=True).start()

    def give(self, batch: BatchT) -> None:
        self._queue.put(batch)

    def now(self, batch: BatchT) -> Done[BatchT, ResultT]:
        """Run it in the thread that asks; `done` is not called."""
        start = time.monotonic()
        result: ResultT | Exception
        try:
            result = self.run(batch)
        except Exception as error:
            result = error
        return Done(batch, result, start, 1e3 * (time.monotonic() - start))

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            done = self.now(self._queue.get())
            try:
                loop.call_soon_threadsafe(self.done, done)
            except RuntimeError:
                # The loop is closed: the process is ending.
                return
