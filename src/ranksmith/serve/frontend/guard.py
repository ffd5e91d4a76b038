"""What surrounds every request: an id to find it by, and a net under bugs."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ranksmith.serve.frontend.answers import as_json

__all__ = ["Guard", "id_of", "new_id", "request_id"]

_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACE = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII)
_OWN = secrets.token_hex(4)
_counted = itertools.count()
_SCOPE = "ranksmith.request_id"


def request_id(headers: Mapping[str, str]) -> str:
    """The client's `x-request-id`, or the trace of its `traceparent`, or one made up."""
    given = headers.get("x-request-id")
    if given is not None and _ID.fullmatch(given):
        return given
    trace = _TRACE.fullmatch(headers.get("traceparent", ""))
    return trace[1] if trace else new_id()


def new_id() -> str:
    """Of this process's own, counted on: another random number for each would cost a system call."""
    return f"{_OWN}{next(_counted):08x}"


def id_of(request: Request) -> str:
    """What `Guard` named a request; empty outside of it."""
    return str(request.scope.get(_SCOPE, ""))


class Guard:
    """Middleware: names every answer, and turns an exception nobody expected into a plain 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = structlog.get_logger("ranksmith.frontend")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = scope[_SCOPE] = request_id(Headers(scope=scope))
        header = (b"x-request-id", name.encode())
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception as error:
            self._log.error("a bug", request_id=name, path=scope["path"], exc_info=error)
            if started:
                # The answer is under way: all that is left is to cut it off.
                raise
            await as_json({"error": "a bug of ours"}, 500)(scope, receive, named)
