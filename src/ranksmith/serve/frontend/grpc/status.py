"""What went wrong, as gRPC tells it."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc
import structlog

from ranksmith.serve.frontend.reply import RefusedError
from ranksmith.serve.oip.signature import InvalidRequestError

__all__ = ["Context", "Told", "answering", "told"]

_CODES: Mapping[int, grpc.StatusCode] = MappingProxyType(
    {
        400: grpc.StatusCode.INVALID_ARGUMENT,
        404: grpc.StatusCode.NOT_FOUND,
        413: grpc.StatusCode.RESOURCE_EXHAUSTED,
        503: grpc.StatusCode.UNAVAILABLE,
        504: grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)

Context = Any
_Handler = Callable[[Any, Context], Awaitable[Any]]


class Told(NamedTuple):
    """What a client is told of an error."""

    code: grpc.StatusCode
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


def told(error: Exception) -> Told:
    """What to tell of an error. What nobody expected is a bug of ours: it is logged, and not told."""
    if isinstance(error, InvalidRequestError):
        return Told(grpc.StatusCode.INVALID_ARGUMENT, error.message)
    if not isinstance(error, RefusedError):
        structlog.get_logger("ranksmith.frontend").error(
            "a bug of ours", what=repr(error), traceback="".join(traceback.format_exception(error))
        )
        return Told(grpc.StatusCode.INTERNAL, "a bug of ours; it has been logged")
    if not error.is_overload:
        return Told(_CODES.get(error.status, grpc.StatusCode.INTERNAL), error.message)
    after = error.retry_after_s
    pushback = () if after is None else (("grpc-retry-pushback-ms", str(round(1e3 * after))),)
    return Told(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message, pushback)


def answering(handler: _Handler) -> _Handler:
    """The handler, with what it raises told as the call's status."""

    async def answer(request: Any, context: Context) -> Any:
        try:
            return await handler(request, context)
        except Exception as error:
            status = told(error)
        return await context.abort(*status)

    return answer
