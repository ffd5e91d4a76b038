"""Heads of requests that have been parsed before.

A client that keeps its connection sends the same request line and the same headers over and over. httptools parses them
once; from then on the bytes themselves say what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ranksmith.serve.oip.rest import HEADER_LENGTH, parse_header_length
from ranksmith.serve.oip.signature import InvalidRequestError

__all__ = ["Head", "Heads"]

_END = b"\r\n\r\n"
_START = b"POST /v2/models/"
_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_MOST_BYTES = 2048
_MOST_HEADS = 1024
_HEADER_LENGTH = HEADER_LENGTH.lower().encode()
# Each of these asks for something that is not done here, or differs from request to request.
_SPECIAL = {b"transfer-encoding", b"expect", b"upgrade", b"x-request-id", b"traceparent"}


class Head(NamedTuple):
    """What the head of a request to infer says.

    Attributes:
        size: of the head itself, in bytes.
        body_bytes: that follow it.
        json_bytes: of the body, before binary data; None: all of it.
    """

    size: int
    model: str
    version: str | None
    body_bytes: int
    json_bytes: int | None

    @property
    def request_bytes(self) -> int:
        """Of head and body together."""
        return self.size + self.body_bytes


class Heads:
    """Those that are known; of all connections, and not too many."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, data: bytes) -> Head | None:
        """What the head at the start of `data` says; None if it is not known."""
        end = data.find(_END, 0, _MOST_BYTES)
        return self._known.get(data[: end + len(_END)]) if end > 0 else None

    def learn(self, data: bytes, path: str, http_version: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Remember the head at the start of `data`, if it asks to infer; the rest is how httptools has read it."""
        end = data.find(_END, 0, _MOST_BYTES)
        if end < 0 or not data.startswith(_START):
            return
        head = data[: end + len(_END)]
        known = _read(head, path, http_version, list(headers))
        if known is not None:
            if len(self._known) >= _MOST_HEADS:
                self._known.clear()
            self._known[head] = known


def _read(head: bytes, path: str, http_version: str, pairs: list[tuple[bytes, bytes]]) -> Head | None:
    named = _PATH.fullmatch(path)
    headers = dict(pairs)
    is_plain = (
        named is not None
        and http_version == "1.1"
        and len(headers) == len(pairs)
        and _SPECIAL.isdisjoint(headers)
        and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        # That the head ends where httptools says, too: a line for the request, one for each header, an empty one.
        and head.count(b"\n") == head.count(b"\r\n") == len(headers) + 2
    )
    length = headers.get(b"content-length", b"")
    if named is None or not is_plain or not length.isdigit():
        return None
    try:
        json_bytes = parse_header_length(headers.get(_HEADER_LENGTH, b"").decode("latin-1") or None)
    except InvalidRequestError:
        return None
    return Head(len(head), named[1], named[2], int(length), json_bytes)
