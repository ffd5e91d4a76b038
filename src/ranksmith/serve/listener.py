"""Socket files on which links of frames are accepted."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ranksmith.serve.frames import DEFAULT_LIMITS, Limits
from ranksmith.serve.transport import Link, OnFrame, OnLost, accept

__all__ = ["Listener", "OnLink", "listen"]

_BACKLOG = 128
_ACCEPT_PAUSE_S = 1.0

OnLink = Callable[[Link], None]


class Listener:
    """Accepts links on a socket file until it is closed; the links it accepted live on. Made by `listen`."""

    def __init__(self, listening: socket.socket, path: Path, accepted: Callable[[socket.socket], None]) -> None:
        self._socket = listening
        self._path = path
        self._inode = path.stat().st_ino
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def is_serving(self) -> bool:
        """Whether links are still accepted."""
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """Accept no more links and remove the socket file."""
        if not self.is_serving():
            return
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._socket)
        # A successor may have put its own file there; ours keeps its inode number for as long as the socket is open.
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()
        self._socket.close()

    async def wait_closed(self) -> None:
        """For the likeness to `asyncio.Server`: `close` has nothing to wait for."""

    def _start(self) -> None:
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        try:
            connected, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._pause(error)
            return
        self._accepted(connected)

    def _pause(self, error: OSError) -> None:
        """Out of descriptors or memory, the socket stays readable: trying again at once would spin."""
        self._loop.call_exception_handler({"message": "a link could not be accepted", "exception": error})
        self._loop.remove_reader(self._socket)
        self._resume = self._loop.call_later(_ACCEPT_PAUSE_S, self._start)


async def listen(
    path: str | os.PathLike[str],
    on_link: OnLink,
    on_frame: OnFrame,
    on_lost: OnLost,
    *,
    limits: Limits = DEFAULT_LIMITS,
    backlog: int = _BACKLOG,
) -> Listener:
    """Accept links on a new socket file, which only this user may open.

    `on_link` is given each link before any of its frames; what it raises ends the link and goes to `on_lost`. A file
    left behind by a dead listener is replaced.

    Raises:
        OSError: the path is in use, too long, or cannot be written.
    """

    def accepted(connected: socket.socket) -> None:
        accept(connected, on_link, on_frame, on_lost, limits)

    place = Path(path)
    _remove_if_stale(place)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.bind(os.fspath(place))
        # Nobody can connect before `listen`, so the file is never open to others.
        place.chmod(0o600)
        listening.listen(backlog)
        listener = Listener(listening, place, accepted)
    except BaseException:
        listening.close()
        raise
    listener._start()
    return listener


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
