"""Answers that are JSON, above all errors: `{"error": "..."}`, whatever went wrong."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ExceptionHandler, Receive, Scope, Send

from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.reply import RefusedError
from ranksmith.serve.oip.schema import ErrorResponse
from ranksmith.serve.oip.signature import InvalidRequestError

__all__ = ["as_json", "error_handlers", "refusal"]

_BODY_NOT_READ = (408, 413)


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


class _Last(Response):
    """Closes the connection, but only once the client has had time to read it.

    A socket that is closed with unread bytes in it resets the connection, and takes the answer with it.
    """

    media_type = "application/json"
    linger_s = 1.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(self.linger_s):
                await _drain(receive)
        except TimeoutError:
            pass  # it had its time
        finally:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)


def error_handlers(limits: Limits) -> dict[Any, ExceptionHandler]:
    """What Starlette answers to each exception that is not a bug."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        if error.status in _BODY_NOT_READ:
            last = _Last(msgspec.json.encode(ErrorResponse(error.message)), error.status)
            last.linger_s = limits.linger_s
            return last
        return refusal(error)

    return {
        RefusedError: refused,
        InvalidRequestError: _invalid,
        HTTPException: _no_route,
        ClientDisconnect: _gone,
    }


def refusal(error: RefusedError | InvalidRequestError) -> Response:
    """What a client is told of a request that is not answered, once its body has been read; shared, so not to change.

    Where too much is asked, most of what is answered is the same refusal.
    """
    after_s = error.retry_after_s if isinstance(error, RefusedError) else None
    return _refusal(error.status, error.message, None if after_s is None else max(1, round(after_s)))


@lru_cache
def _refusal(status: int, message: str, after_s: int | None) -> Response:
    return as_json(ErrorResponse(message), status, None if after_s is None else {"Retry-After": str(after_s)})


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    return refusal(error)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    message = error.detail
    if error.status_code == 404:
        message = "there is nothing at this path"
    elif error.status_code == 405:
        allowed = ", ".join(sorted(headers.get("Allow", "").split(", ")))
        message = f"{request.method} is not taken here, only {allowed}"
    return as_json(ErrorResponse(message), error.status_code, headers)


async def _gone(request: Request, error: Exception) -> Response:
    # Nobody reads it: the client closed the connection.
    return Response(status_code=499)
