"""What waits until its deadline: one timer for all of it, as one for each would cost a request 5 µs."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

__all__ = ["Deadlines"]

_DEAD = 1024


@dataclass(eq=False)
class Deadlines:
    """
    Attributes:
        waiting: the numbers that still wait; what is not among them any more is forgotten in time.
        passed: called with each that still waits at its deadline, soon after it.
    """

    waiting: Collection[int]
    passed: Callable[[int], None]
    _heap: list[tuple[float, int]] = field(default_factory=list)
    _timer: asyncio.TimerHandle | None = None
    _due_s: float = 0.0

    def add(self, number: int, deadline_s: float) -> None:
        """
        Args:
            deadline_s: on CLOCK_MONOTONIC.
        """
        heapq.heappush(self._heap, (deadline_s, number))
        if len(self._heap) > 2 * len(self.waiting) + _DEAD:
            self._heap = [each for each in self._heap if each[1] in self.waiting]
            heapq.heapify(self._heap)
        if self._timer is None or deadline_s < self._due_s:
            self._arm(deadline_s)

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due_s - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][1] not in self.waiting):
            _, number = heapq.heappop(self._heap)
            if number in self.waiting:
                self.passed(number)
        # What `passed` led to may have armed it.
        if self._heap and self._timer is None:
            self._arm(self._heap[0][0])
