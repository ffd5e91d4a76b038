"""Links of frames over AF_UNIX stream sockets.

A `Link` reads and writes its socket itself rather than through an asyncio transport: until Python 3.12 a transport
joins what `writelines` is given and copies what the kernel does not take at once, and a payload is worth neither copy.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Self

from ranksmith.serve.frames import DEFAULT_LIMITS, Decoder, Frame, FrameError, Limits, encode
from ranksmith.serve.socket_file import SocketFile

__all__ = [
    "LOW_MARK_BYTES",
    "Link",
    "LinkClosedError",
    "Listener",
    "OnFrame",
    "OnLink",
    "OnLost",
    "adopt",
    "connect",
    "listen",
]

# `drain` lets a sender go on below this: some frames of a ResNet-50's input, and no more memory than that per link.
LOW_MARK_BYTES = 4 * 2**20

_BACKLOG = 128
_SOCKET_BUFFER_BYTES = 2**20
_BUFFERS_PER_CALL = 512
_RETRY_S = 0.005
_ACCEPT_PAUSE_S = 1.0


class LinkClosedError(ConnectionError):
    """The link is closed, or its other end is gone."""


class Link:
    """One end of a stream of frames. Made by `connect`, `listen` or `adopt`; used from its event loop's thread only.

    `on_lost` is called exactly once, from the event loop: with None after an end of file between frames or our own
    `close`, with `FrameError` after malformed bytes or an end of file within a frame, with `OSError` when the other end
    went away before it read everything, with whatever `on_frame` raised. No frame is given after it.
    """

    def __init__(self, connected: socket.socket, on_frame: OnFrame, on_lost: OnLost, limits: Limits) -> None:
        self._socket = connected
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._decoder = Decoder(limits)
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[memoryview] = deque()
        self._outgoing_bytes = 0
        self._room = asyncio.Event()
        self._closing = False
        self._lost = False
        self._write_error: OSError | None = None

    @property
    def buffered_bytes(self) -> int:
        """How much is waiting to be written."""
        return self._outgoing_bytes

    @property
    def is_closed(self) -> bool:
        """Whether `send` is in vain. `on_lost` may be still to come."""
        return self._closing or self._write_error is not None

    def send(self, frame: Frame) -> None:
        """Write a frame, or keep what the kernel does not take now. Never blocks.

        The tensors' data are not copied: leave them unchanged until they are written.

        Raises:
            LinkClosedError: the link is closed or the other end is gone.
            FrameError: the frame cannot be encoded; the link is as it was.
        """
        self._raise_if_closed()
        buffers = [memoryview(buffer) for buffer in encode(frame)]
        waiting = bool(self._outgoing)
        self._outgoing.extend(buffers)
        self._outgoing_bytes += sum(buffer.nbytes for buffer in buffers)
        if not waiting:
            self._flush()
            self._raise_if_closed()
            if self._outgoing:
                self._loop.add_writer(self._socket, self._on_writable)

    async def drain(self) -> None:
        """Wait until no more than `LOW_MARK_BYTES` are waiting to be written.

        Raises:
            LinkClosedError: the link is closed or the other end is gone.
        """
        self._raise_if_closed()
        while self._outgoing_bytes > LOW_MARK_BYTES:
            self._room.clear()
            await self._room.wait()
            self._raise_if_closed()

    def close(self) -> None:
        """Stop reading, write what is waiting, then close. `on_lost` follows."""
        if self._closing:
            return
        self._closing = True
        self._room.set()
        self._loop.remove_reader(self._socket)
        if not self._outgoing:
            self._lose(None)

    def abort(self) -> None:
        """Close at once; what is waiting to be written is dropped. `on_lost` follows."""
        self._lose(None)

    def _start(self) -> None:
        self._loop.add_reader(self._socket, self._on_readable)

    def _on_readable(self) -> None:
        # Once for each event, so that a busy link leaves the others their turn.
        self._read()

    def _read(self) -> bool:
        """Read once and hand on the frames; False if there was nothing to read."""
        try:
            size = self._socket.recv_into(self._decoder.buffer())
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose(error)
            return True
        try:
            if size == 0:
                self._decoder.end()
                self._lose(None)
            else:
                self._dispatch(self._decoder.filled(size))
        except FrameError as error:
            self._lose(error)
        return True

    def _dispatch(self, frames: list[Frame]) -> None:
        for frame in frames:
            if self._closing:
                return
            try:
                self._on_frame(self, frame)
            except Exception as error:
                self._lose(error)
        if self._decoder.error is not None:
            self._lose(self._decoder.error)

    def _on_writable(self) -> None:
        self._flush()
        if not self._outgoing and not self._lost:
            self._loop.remove_writer(self._socket)
            if self._closing:
                self._lose(None)

    def _flush(self) -> None:
        try:
            sent = self._socket.sendmsg(list(islice(self._outgoing, _BUFFERS_PER_CALL)))
        except BlockingIOError:
            return
        except OSError as error:
            self._fail_writing(error)
            return
        self._outgoing_bytes -= sent
        while sent:
            first = self._outgoing.popleft()
            if sent < first.nbytes:
                self._outgoing.appendleft(first[sent:])
                break
            sent -= first.nbytes
        if self._outgoing_bytes <= LOW_MARK_BYTES:
            self._room.set()

    def _fail_writing(self, error: OSError) -> None:
        self._write_error = error
        self._drop_outgoing()
        if self._closing:
            self._lose(error)
        else:
            # The other end may have answered before it went: those frames are still to be read.
            self._loop.call_soon(self._read_what_is_left)

    def _read_what_is_left(self) -> None:
        while not self._closing and self._read():
            pass
        self._lose(None)

    def _drop_outgoing(self) -> None:
        self._loop.remove_writer(self._socket)
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._room.set()

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._loop.remove_reader(self._socket)
        self._drop_outgoing()
        self._socket.close()
        self._loop.call_soon(self._on_lost, self, error or self._write_error)

    def _raise_if_closed(self) -> None:
        if self.is_closed:
            raise LinkClosedError("the link is closed") from self._write_error


OnFrame = Callable[[Link, Frame], None]
OnLost = Callable[[Link, Exception | None], None]
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


async def adopt(
    connected: socket.socket, on_frame: OnFrame, on_lost: OnLost, *, limits: Limits = DEFAULT_LIMITS
) -> Link:
    """Make a link of a connected stream socket, which then belongs to it.

    No callback is called before this has returned.
    """
    link = _link(connected, on_frame, on_lost, limits)
    link._start()
    return link


async def connect(
    path: str | os.PathLike[str], on_frame: OnFrame, on_lost: OnLost, *, limits: Limits = DEFAULT_LIMITS
) -> Link:
    """Connect to a listener's socket file. No callback is called before this has returned.

    Raises:
        OSError: nobody listens there.
    """
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        await _connect(connecting, os.fspath(path))
    except BaseException:
        connecting.close()
        raise
    return await adopt(connecting, on_frame, on_lost, limits=limits)


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
        link = _link(connected, on_frame, on_lost, limits)
        try:
            on_link(link)
        except Exception as error:
            link._lose(error)
        if not link.is_closed:
            link._start()

    listener = Listener(SocketFile.listen(Path(path), backlog), accepted)
    listener._start()
    return listener


def _link(connected: socket.socket, on_frame: OnFrame, on_lost: OnLost, limits: Limits) -> Link:
    connected.setblocking(False)
    # A ResNet-50 input that fits crosses in half the time; more would only hide a slow reader from `drain`.
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
    return Link(connected, on_frame, on_lost, limits)


async def _connect(connecting: socket.socket, path: str) -> None:
    """Connect, waiting while the listener's backlog is full.

    Not `loop.sock_connect`: on AF_UNIX a full backlog reads as "would block", which it takes for a connection under
    way, and then for one that was made.
    """
    while True:
        try:
            connecting.connect(path)
        except BlockingIOError:
            await asyncio.sleep(_RETRY_S)
        else:
            return
