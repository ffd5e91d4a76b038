"""A gRPC request that is no message of its method is the client's mistake, and is told as one.

gRPC itself would log a traceback, and answer with status UNKNOWN and the names of our classes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

__all__ = ["RefuseUnreadable"]


class RefuseUnreadable(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Parses the requests that are a single message, and answers what cannot be parsed."""

    def __init__(self) -> None:
        self._parsing: dict[str, Any] = {}

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        known = self._parsing.get(details.method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        found = self._parsing[details.method] = grpc.unary_unary_rpc_method_handler(
            _parsing(handler), response_serializer=handler.response_serializer
        )
        return found


def _parsing(handler: Any) -> Callable[[bytes, Any], Awaitable[Any]]:
    async def answer(content: bytes, context: Any) -> Any:
        try:
            request = handler.request_deserializer(content)
        except DecodeError:
            return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is not a message of this method")
        return await handler.unary_unary(request, context)

    return answer
