"""The short way: a request to infer whose head is known, from a connection's bytes to a worker and back.

Most requests of a busy server take it. There is no task, no ASGI and no Starlette in it, which together cost more than
all that has to be done. What is out of the ordinary before a request is admitted is left to the long way, which has the
words for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

import structlog

from ranksmith.serve.frames import Kind
from ranksmith.serve.frontend.answers import as_json, refusal
from ranksmith.serve.frontend.asking import Asking
from ranksmith.serve.frontend.bodies import Bodies
from ranksmith.serve.frontend.heads import Head, Heads
from ranksmith.serve.frontend.held import Outcome, Pending
from ranksmith.serve.frontend.infer import Headers, ask_of, headers_of
from ranksmith.serve.frontend.outbox import Outbox
from ranksmith.serve.frontend.reply import RefusedError
from ranksmith.serve.frontend.returning import Client
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.oip.signature import Asked, InvalidRequestError

__all__ = ["Direct", "Exchange", "Rendered", "header_lines"]

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

# A frame copies what it stacks, and a worker reads it whole.
_SMALL_BYTES = 64 * 1024

_log = structlog.get_logger("ranksmith.frontend")


class Rendered(NamedTuple):
    """An answer, as it goes out.

    Attributes:
        head: the status line and the headers, but for those of the connection and of the request; few answers differ
            in these.
    """

    head: bytes
    request_id: str
    body: Sequence[bytes | memoryview]


@dataclass(frozen=True, eq=False)
class Direct:
    """What all requests on the short way share."""

    asking: Asking
    bodies: Bodies
    heads: Heads = field(default_factory=Heads)
    outbox: Outbox = field(default_factory=Outbox)

    def refused(self, head: Head, request_id: str) -> Rendered | None:
        """The answer to a request that cannot be admitted whatever it asks; it need not be read for that."""
        try:
            error = self.asking.pool.turn_away(head.model, head.version)
        except RefusedError:
            return None
        return None if error is None else _refused(error, request_id)

    def ask(
        self,
        head: Head,
        data: bytes | bytearray,
        request_id: str,
        respond: Callable[[Rendered], None],
        client: Client,
    ) -> Exchange | None:
        """Begin to answer the request in `data`, head and body; None: it has to take the long way.

        Args:
            respond: is called once, unless the exchange is cancelled before; not before this has returned.
            client: see `Pending`.
        """
        pool = self.asking.pool
        try:
            served = pool.served(head.model, head.version)
            asked = served.known.decode(memoryview(data)[head.size :], head.json_bytes)
            deadline_s = self.asking.deadline_s(asked.parameters.get("timeout"))
        except (InvalidRequestError, RefusedError):
            return None
        exchange = Exchange(served, asked, request_id, respond, pool.cancel)
        try:
            exchange.pending = pool.submit(
                served.hello.name,
                Kind.INFER,
                asked.tensors,
                ask_of(asked, request_id),
                rows=asked.rows,
                deadline_s=deadline_s,
                over=exchange.over,
                alike=asked.like if head.body_bytes <= _SMALL_BYTES else None,
                client=client,
            )
        except Exception as error:
            # Soon, not now: who asks has not got the exchange yet.
            asyncio.get_running_loop().call_soon(exchange.fail, error)
        return exchange


@dataclass(eq=False, slots=True)
class Exchange:
    """One request on the short way, until it is answered."""

    served: Served
    asked: Asked
    request_id: str
    respond: Callable[[Rendered], None]
    cancelled: Callable[[Pending], None]
    pending: Pending | None = None

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            self.cancelled(pending)

    def over(self, outcome: Outcome) -> None:
        # The request refers to this: it would be left to the garbage collector, and its data with it.
        self.pending = None
        if isinstance(outcome, RefusedError):
            self.fail(outcome)
            return
        try:
            body, json_bytes = self.served.known.encode(str(outcome.generation), outcome.tensors, self.asked)
        except Exception as error:
            self.fail(error)
        else:
            self.respond(Rendered(_head(json_bytes, sum(map(len, body))), self.request_id, body))

    def fail(self, error: Exception) -> None:
        """There is no reply, or none that can be told."""
        self.respond(_refused(error, self.request_id))


def _refused(error: Exception, request_id: str) -> Rendered:
    if isinstance(error, RefusedError | InvalidRequestError):
        response = refusal(error)
    else:
        _log.error("a bug", request_id=request_id, exc_info=error)
        response = as_json({"error": "a bug of ours"}, 500)
    head = _STATUS_LINES[response.status_code] + header_lines(tuple(response.raw_headers))
    return Rendered(head, request_id, [bytes(response.body)])


@lru_cache
def header_lines(headers: Headers) -> bytes:
    """As they go out; there are few."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


@lru_cache
def _head(json_bytes: int | None, size: int) -> bytes:
    return _STATUS_LINES[200] + header_lines(headers_of(json_bytes, size))
