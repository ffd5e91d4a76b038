"""Links of frames over AF_UNIX stream sockets.

A `Link` reads and writes its socket itself rather than through an asyncio transport: until Python 3.12 a transport
joins what `writelines` is given and copies what the kernel does not take at once, and a payload is worth neither copy.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from itertools import islice

from ranksmith.serve.frames import DEFAULT_LIMITS, Decoder, Frame, FrameError, Limits, encode

__all__ = [
    "LOW_MARK_BYTES",
    "Link",
    "LinkClosedError",
    "OnFrame",
    "OnLost",
    "accept",
    "adopt",
    "connect",
]

# `drain` lets a sender go on below this: some frames of a ResNet-50's input, and no more memory than that per link.
LOW_MARK_BYTES = 4 * 2**20

_SOCKET_BUFFER_BYTES = 2**20
_BUFFERS_PER_CALL = 512
_READS_PER_EVENT = 16
_RETRY_S = 0.005
# unix(7): the process, the user and the group of who connected.
_CREDENTIALS = struct.Struct("3i")


class LinkClosedError(ConnectionError):
    """The link is closed, or its other end is gone."""


class Link:
    """One end of a stream of frames. Made by `connect`, `adopt` or a listener; used from its event loop's thread only.

    `on_lost` is called exactly once, from the event loop: with None after an end of file between frames or our own
    `close`, with `FrameError` after malformed bytes or an end of file within a frame, with `OSError` when the other end
    went away before it read everything, with whatever `on_frame` raised. No frame is given after it.

    Attributes:
        peer_pid: the process that connected; 0: not known.
    """

    def __init__(self, connected: socket.socket, on_frame: OnFrame, on_lost: OnLost, limits: Limits) -> None:
        self._socket = connected
        self.peer_pid = _peer_pid(connected)
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

    def send(self, *frames: Frame) -> None:
        """Write frames, or keep what the kernel does not take now. Never blocks.

        The tensors' data are not copied: leave them unchanged until they are written.

        Raises:
            LinkClosedError: the link is closed or the other end is gone.
            FrameError: a frame cannot be encoded; the link is as it was.
        """
        self._raise_if_closed()
        buffers = [memoryview(buffer) for frame in frames for buffer in encode(frame)]
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
        # Once for each event, so that a busy link leaves the others their turn; but the rest of a payload is on its
        # way, and another event costs more than to look.
        for _ in range(_READS_PER_EVENT):
            if not self._read() or self._closing or not self._decoder.is_within_payload:
                return

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


def accept(
    connected: socket.socket, on_link: Callable[[Link], None], on_frame: OnFrame, on_lost: OnLost, limits: Limits
) -> None:
    """Make a link of a socket that a listener accepted, and give it to `on_link` before any of its frames.

    What `on_link` raises ends the link and goes to `on_lost`.
    """
    link = _link(connected, on_frame, on_lost, limits)
    try:
        on_link(link)
    except Exception as error:
        link._lose(error)
    if not link.is_closed:
        link._start()


def _peer_pid(connected: socket.socket) -> int:
    if sys.platform != "linux":
        return 0
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid


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
