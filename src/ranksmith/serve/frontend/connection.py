"""A connection of uvicorn's, with the limits that uvicorn has none of beside httptools.

As it comes, headers may be endless and arrive one byte an hour, so may trailers, an answer waits for ever for a client
that does not read it, and what is not HTTP is answered in plain text. (`h11_max_incomplete_event_size` is for h11 only,
and `timeout_keep_alive` runs only between requests.)
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ranksmith.serve.frontend.limits import Limits

__all__ = ["Connection", "client_of"]

_INT = struct.Struct("i")
_EXTENSION = "ranksmith.client"


class Connection(HttpToolsProtocol):
    """One client's connection; of a class made for the limits.

    Attributes:
        waiting: is cancelled when the client goes.
        is_lost: whether it has gone.
    """

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting: asyncio.Task[Any] | None = None
        self.is_lost = False
        self._cycles: list[RequestResponseCycle] = []
        self._in_head = True
        self._got_on = False
        self._pending_bytes = 0
        self._patience: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._answers = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many connections")
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_patience()
        if self._stall is not None:
            self._stall.cancel()
        # uvicorn tells only the last one of a pipeline; the others would write to a closed transport.
        for cycle in self._cycles:
            cycle.disconnected = True
        super().connection_lost(exc)
        self.is_lost = True
        if self.waiting is not None:
            self.waiting.cancel()

    def data_received(self, data: bytes) -> None:
        if self._patience is None:
            # Between requests; even a blank line starts the clock, as it stops the one of keep-alive.
            self._wait_for_head()
        self._got_on = False
        super().data_received(data)
        self._pending_bytes = 0 if self._got_on else self._pending_bytes + len(data)
        if self._pending_bytes > self.limits.head_bytes and not self.transport.is_closing():
            self._too_long()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: self}  # type: ignore[dict-item]

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come after the body, when nobody reads headers any more.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._got_on = False, True
        self._wait(self.limits.body_s + self.limits.linger_s, self._body_late)
        super().on_headers_complete()
        self._cycles = [cycle for cycle in (*self._cycles, self.cycle) if cycle and not cycle.response_complete]

    def on_body(self, body: bytes) -> None:
        self._got_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._got_on = True, True
        self._forget_patience()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._answers += 1
        if not self._is_over:
            self.watch_reader()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "the request is not HTTP/1.1")

    @property
    def _is_over(self) -> bool:
        return self.parser is None

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self, seconds: float, late: Any) -> None:
        self._forget_patience()
        self._patience = self.loop.call_later(seconds, late)

    def _forget_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _wait_for_head(self) -> None:
        self._wait(self.limits.head_s, self._head_late)

    def _head_late(self) -> None:
        if self._is_answering:
            # The next request of a pipeline: we may be the ones who do not read.
            self._wait_for_head()
        else:
            self._refuse(408, f"the headers did not arrive within {self.limits.head_s:g} s")

    def _body_late(self) -> None:
        if self._is_answering:
            # The application has its own clock, and the better words.
            self._wait(self.limits.body_s, self._body_late)
        else:
            self.transport.close()

    def _too_long(self) -> None:
        if self._in_head:
            self._refuse(431, f"the headers are over the limit of {self.limits.head_bytes:,} bytes")
        else:
            self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application, and close; inside another answer there is only closing."""
        if not self._is_answering and not self.transport.is_closing():
            body = msgspec.json.encode({"error": message})
            self.transport.write(
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
                + body
            )
        self.transport.close()

    def watch_reader(self) -> None:
        """Give up on a client that reads nothing of its answer for too long."""
        if self._stall is not None:
            return
        before = (self._answers, self._unread_bytes)

        def look() -> None:
            self._stall = None
            if self.transport.get_write_buffer_size() == 0:
                return
            if (self._answers, self._unread_bytes) == before:
                self.transport.abort()
            else:
                self.watch_reader()

        self._stall = self.loop.call_later(self.limits.stalled_s, look)

    @property
    def _unread_bytes(self) -> int:
        """Of our answers, here and in the kernel: from us it takes them by the megabyte, too coarse to judge by."""
        return self.transport.get_write_buffer_size() + _unsent(self.transport.get_extra_info("socket").fileno())


def _unsent(descriptor: int) -> int:
    """Bytes that a socket's other end has not acknowledged."""
    try:
        return int(_INT.unpack(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(_INT.size)))[0])
    except OSError:
        return 0


def client_of(scope: Scope) -> Connection:
    """Whose request it is."""
    client: Connection = scope["extensions"][_EXTENSION]
    return client
