"""Unix sockets that are listened on, and their files: only for this user, replaced when stale, removed at the end."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

__all__ = ["SocketFile"]

_ONLY_US = 0o600


class SocketFile:
    """A listening socket at a path. Made by `listen`."""

    def __init__(self, path: Path, listening: socket.socket) -> None:
        self.path = path
        self.socket = listening
        self._inode = path.stat().st_ino

    @classmethod
    def listen(cls, path: Path, backlog: int) -> SocketFile:
        """Listen at `path`, where only this user may connect. A file that a dead listener left is replaced.

        Raises:
            OSError: something else is there, somebody listens there, or the path is too long or cannot be written.
        """
        _remove_if_stale(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            listening.bind(os.fspath(path))
            # Nobody can connect before `listen`, so the file is never open to others.
            path.chmod(_ONLY_US)
            listening.listen(backlog)
            return cls(path, listening)
        except BaseException:
            listening.close()
            raise

    @property
    def is_open(self) -> bool:
        return self.socket.fileno() >= 0

    def close(self) -> None:
        """Remove the file and close the socket. Who has connected by then is still accepted by those who share it."""
        if not self.is_open:
            return
        # A successor may have put its own file there; ours keeps its inode number for as long as the socket is open.
        if self.path.exists() and self.path.stat().st_ino == self._inode:
            self.path.unlink()
        self.socket.close()


def _remove_if_stale(path: Path) -> None:
    """Remove a socket file that nobody listens on; leave anything else for `bind` to refuse."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
        except BlockingIOError:
            return
