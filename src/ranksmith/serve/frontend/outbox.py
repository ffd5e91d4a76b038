"""Answers that were made together go out together.

A client that is written to wakes up, and on a machine with few cores it runs at once, in the place of the front end
that has other answers of the same batch to make. So all of them are made first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Outbox"]


@dataclass(eq=False)
class Outbox:
    """What is to be written once everything that is to be written now has been made."""

    _waiting: list[tuple[Callable[[bytes], None], bytes]] = field(default_factory=list)

    def put(self, write: Callable[[bytes], None], data: bytes) -> None:
        """Call `write` with `data` soon, after what was put here before; it must not raise."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._empty)
        self._waiting.append((write, data))

    def _empty(self) -> None:
        waiting, self._waiting = self._waiting, []
        for write, data in waiting:
            write(data)
