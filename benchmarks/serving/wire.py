"""HTTP/1.1 as a load generator needs it: whole requests out, whole replies in, one at a time on a connection.

The client shares its cores with the server that it measures, so nothing is parsed but the status, the length, and
whether the connection stays open.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

__all__ = ["Address", "Connection", "Reply", "WireError", "connect", "parse", "request"]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_STATUS = slice(9, 12)
_ENDED = "the connection ended before the answer"


class WireError(Exception):
    """What came is no reply that this client reads."""


class Reply(NamedTuple):
    """
    Attributes:
        is_last: the server closes the connection after it.
    """

    status: int
    body: bytes
    is_last: bool


@dataclass(frozen=True)
class Address:
    port: int
    host: str = "127.0.0.1"


def request(method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """A whole request, as it goes out."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    if body or method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def parse(received: bytes) -> Reply | None:
    """The reply, once it is there as a whole.

    Raises:
        WireError: it is not HTTP, or does not say how long it is, or more than one reply came.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = _LENGTH.search(received, 0, end)
    if not received.startswith(b"HTTP/1.1 ") or length is None:
        raise WireError(f"not a reply with a Content-Length: {received[:60]!r}")
    body = received[end + 4 :]
    missing = int(length[1]) - len(body)
    if missing > 0:
        return None
    if missing < 0:
        raise WireError("more came than the Content-Length says")
    return Reply(int(received[_STATUS]), body, _CLOSE.search(received, 0, end) is not None)


OnReply = Callable[["Connection", Reply | str], None]


class Connection(asyncio.Protocol):
    """A keep-alive connection that holds one request at a time.

    Attributes:
        question, since_s: of the request that was sent last; idle_since_s: its reply came. They are the caller's.
        is_open: whether another request can be sent.
    """

    def __init__(self, on_reply: OnReply) -> None:
        """
        Args:
            on_reply: called with the reply, or with why there will be none; then the connection is no longer open.
        """
        self._on_reply = on_reply
        self._received = b""
        self._is_waiting = False
        self.is_open = False
        self.question, self.since_s, self.idle_since_s = 0, 0.0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def ask(self, content: bytes, question: int, since_s: float) -> None:
        self.question, self.since_s, self._is_waiting = question, since_s, True
        if self.is_open:
            self._transport.write(content)
        else:
            self.give_up(_ENDED)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if not self._is_waiting:
            self.close()
            return
        try:
            reply = parse(self._received)
        except WireError as error:
            self.give_up(str(error))
            return
        if reply is not None:
            self._received = b""
            self._is_waiting = False
            if reply.is_last:
                self.close()
            self._on_reply(self, reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._is_waiting:
            self.give_up(_ENDED)

    def give_up(self, why: str) -> None:
        """Wait no longer for the reply."""
        self._is_waiting = False
        self.close()
        self._on_reply(self, why)

    def close(self) -> None:
        self.is_open = False
        self._transport.abort()


async def connect(address: Address, on_reply: OnReply) -> Connection:
    """
    Raises:
        OSError: nobody listens.
    """
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(on_reply), address.host, address.port
    )
    return connection
