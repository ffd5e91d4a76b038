"""What every process of the server does first: take its title, and die with the supervisor."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import setproctitle

__all__ = ["begin"]

_PR_SET_PDEATHSIG = 1


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
