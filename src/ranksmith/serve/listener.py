"""Socket files on which links of frames are accepted."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ranksmith.serve.frames import DEFAULT_LIMITS, Limits
from ranksmith.serve.socket_file import SocketFile
from ranksmith.serve.transport import Link, OnFrame, OnLost, accept

__all__ = ["Listener", "OnLink", "listen"]

_BACKLOG = 128
_ACCEPT_PAUSE_S = 1.0

OnLink = Callable[[Link], None]


class Listener:
    """Accepts links on a socket file until it is closed; the links it accepted live on. Made by `listen`."""

    def __init__(self, file: SocketFile, accepted: Callable[[socket.socket], None]) -> None:
        self._file = file
        self._socket = file.socket
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def is_serving(self) -> bool:
        """Whether links are still accepted."""
        return self._file.is_open

    def close(self) -> None:
        """Accept no more links and remove the socket file."""
        if not self.is_serving():
            return
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._socket)
        self._file.close()

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

    listener = Listener(SocketFile.listen(Path(path), backlog), accepted)
    listener._start()
    return listener
