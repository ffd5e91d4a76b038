"""Tasks that run beside what started them: asyncio itself keeps only weak references to them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["Tasks"]


class Tasks:
    """Tasks that nobody waits for, until they are done or cancelled."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def cancel(self) -> list[asyncio.Task[None]]:
        """Ask all of them to end; those that were asked."""
        running = list(self._running)
        for task in running:
            task.cancel()
        return running
