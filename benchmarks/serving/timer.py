"""A timer of microseconds for an event loop, whose own are of milliseconds: Linux's timerfd.

Python has it from 3.13 on (`os.timerfd_create`); until then it takes the C library.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

__all__ = ["Timer"]

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_SHORTEST_NS = 1


class _Setting(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """Calls `on_time` whenever a moment that was set has come; within the running event loop.

    Raises:
        OSError: the system has no timerfd.
    """

    def __init__(self, on_time: Callable[[], None]) -> None:
        self._c = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._c.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._on_time = on_time
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._fired)

    def set(self, moment_s: float) -> None:
        """Args:
        moment_s: of `time.perf_counter`; one that has passed is at once.
        """
        left_ns = max(_SHORTEST_NS, round(1e9 * (moment_s - time.perf_counter())))
        setting = _Setting(0, 0, *divmod(left_ns, 1_000_000_000))
        self._c.timerfd_settime(self._descriptor, 0, ctypes.byref(setting), None)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _fired(self) -> None:
        os.read(self._descriptor, 8)
        self._on_time()
