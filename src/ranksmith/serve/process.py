"""What every process of the server does: take its title, die with the supervisor, and settle once it has started."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys

import setproctitle

__all__ = ["begin", "settle"]

_PR_SET_PDEATHSIG = 1
# Requests leave no cycles behind, and those that wait would be looked through over and over: that took a sixth of a
# front end's time.
_COLLECT_AFTER = 50_000


def begin(title: str, parent: int) -> None:
    """Call first thing in a child of the supervisor.

    Args:
        title: what `ps` shows.
        parent: the supervisor's process id; where it is gone already, so are we.
    """
    setproctitle.setproctitle(f"ranksmith {title}")
    if sys.platform == "linux":
        # Not even kill -9 of the supervisor leaves an orphan.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def settle() -> None:
    """Call once everything is loaded: what lives until the end is never looked through for garbage again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
