"""The short way: a request to infer whose head is known, from a connection's bytes to a worker and back.

Most requests of a busy server take it. There is no task, no ASGI and no Starlette in it, which together cost more than
all that has to be done. What is out of the ordinary before a request is admitted is left to the long way, which has the
words for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from ranksmith.serve.frames import Kind
from ranksmith.serve.frontend.answers import as_json, refusal
from ranksmith.serve.frontend.asking import Asking
from ranksmith.serve.frontend.bodies import Bodies
from ranksmith.serve.frontend.heads import Head, Heads
from ranksmith.serve.frontend.held import Outcome, Pending
from ranksmith.serve.frontend.infer import Headers, ask_of, rendered
from ranksmith.serve.frontend.reply import RefusedError
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.frontend.statistics import Counting
from ranksmith.serve.oip.signature import Asked, InvalidRequestError

__all__ = ["Direct", "Exchange", "Rendered"]

_log = structlog.get_logger("ranksmith.frontend")


class Rendered(NamedTuple):
    """An answer: a Starlette response, without what makes one.

    Attributes:
        headers: but for the request's id; few answers differ in the others.
    """

    status: int
    headers: Headers
    request_id: str
    body: Sequence[bytes | memoryview]


@dataclass(frozen=True, eq=False)
class Direct:
    """What all requests on the short way share."""

    asking: Asking
    bodies: Bodies
    heads: Heads = field(default_factory=Heads)

    def ask(self, head: Head, data: bytes, request_id: str, respond: Callable[[Rendered], None]) -> Exchange | None:
        """Begin to answer the request in `data`, head and body; None: it has to take the long way.

        Args:
            respond: is called once, unless the exchange is cancelled before; not before this has returned.
        """
        pool, statistics = self.asking.pool, self.asking.statistics
        try:
            served = pool.served(head.model, head.version)
            asked = served.known.decode(memoryview(data)[head.size :], head.json_bytes)
            deadline_s = self.asking.deadline_s(asked.parameters.get("timeout"))
        except (InvalidRequestError, RefusedError):
            return None
        name = served.hello.name
        counting = statistics.begin(name, served.generation, asked.rows)
        exchange = Exchange(served, asked, counting, request_id, respond, pool.cancel)
        try:
            exchange.pending = pool.submit(
                name,
                Kind.INFER,
                asked.tensors,
                ask_of(asked, request_id),
                rows=asked.rows,
                deadline_s=deadline_s,
                over=exchange.over,
                alike=asked.like,
            )
        except Exception as error:
            # Soon, not now: who asks has not got the exchange yet.
            asyncio.get_running_loop().call_soon(exchange.refused, error)
        return exchange


@dataclass(eq=False, slots=True)
class Exchange:
    """One request on the short way, until it is answered."""

    served: Served
    asked: Asked
    counting: Counting
    request_id: str
    respond: Callable[[Rendered], None]
    cancelled: Callable[[Pending], None]
    pending: Pending | None = None

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            self.counting.ended()
            self.cancelled(pending)

    def over(self, outcome: Outcome) -> None:
        # The request refers to this: it would be left to the garbage collector, and its data with it.
        self.pending = None
        if isinstance(outcome, RefusedError):
            self.refused(outcome)
            return
        self.counting.ended()
        try:
            self.counting.answered(outcome)
            headers, body = rendered(self.served, self.asked, outcome)
        except Exception as error:
            self._fail(error)
        else:
            self._respond(200, headers, body)

    def refused(self, error: Exception) -> None:
        """There is no reply, or it was not even begun."""
        self.counting.ended()
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, RefusedError):
            self.counting.failed(error)
        if isinstance(error, RefusedError | InvalidRequestError):
            response = refusal(error)
        else:
            _log.error("a bug", request_id=self.request_id, exc_info=error)
            response = as_json({"error": "a bug of ours"}, 500)
        self._respond(response.status_code, tuple(response.raw_headers), [bytes(response.body)])

    def _respond(self, status: int, headers: Headers, body: Sequence[bytes | memoryview]) -> None:
        self.respond(Rendered(status, headers, self.request_id, body))
