"""On which core a front end wakes up: the one that a worker leaves.

A worker that has answered sleeps until it is given more. Linux wakes the front end on the core where it ran last. If
another worker's session runs there, that has to wait, while the core of the worker that answered stands idle: when the
kernel looks for an idle core this one is not idle yet, and afterwards it moves nothing whose caches are warm. Two
workers on two cores lost a twelfth of the machine's time by that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["Core"]

_LOAD = Path("/proc/loadavg")
_LOAD_BYTES = 128


class Core:
    """The core that this thread runs on.

    Args:
        load: where the kernel tells how many threads could run now, as in proc_loadavg(5).
    """

    def __init__(self, load: Path = _LOAD) -> None:
        self._load: int | None = None
        if sys.platform == "linux":
            self._all = os.sched_getaffinity(0)
            self._number: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
            with contextlib.suppress(OSError):
                self._load = os.open(load, os.O_RDONLY | os.O_CLOEXEC)

    def leave_to(self, pid: int, wake: Callable[[], None]) -> None:
        """Call `wake`, which wakes the process `pid`: on this core, if no other is idle.

        It may run wherever this process may, afterwards; that is put right the next time, too, if we die before.

        Args:
            pid: 0: not known.
        """
        if not pid or not self._is_crowded:
            wake()
            return
        # Neither matters enough to fail for: it may not be allowed to us, and the process may be gone.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, (self._number(),))
        try:
            wake()
        finally:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(pid, self._all)

    @property
    def _is_crowded(self) -> bool:
        """Whether there are as many threads that could run as cores."""
        if self._load is None:
            return False
        runnable = os.pread(self._load, _LOAD_BYTES, 0).split()[3].partition(b"/")[0]
        return int(runnable) >= len(self._all)
