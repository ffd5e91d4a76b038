"""`POST /v2/models/M/infer`: tensors in, tensors out."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from ranksmith.serve.frames import Kind
from ranksmith.serve.frontend.asking import Asking
from ranksmith.serve.frontend.bodies import Bodies
from ranksmith.serve.frontend.guard import id_of
from ranksmith.serve.messages import Ask
from ranksmith.serve.oip.rest import HEADER_LENGTH, decode, parse_header_length
from ranksmith.serve.oip.signature import Asked

__all__ = ["Headers", "Infer", "ask_of", "headers_of"]

Headers = tuple[tuple[bytes, bytes], ...]

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()


def ask_of(asked: Asked, request_id: str) -> Ask:
    """What the worker is asked beside the tensors."""
    return Ask(ids=[request_id], outputs=[output.name for output in asked.outputs])


def headers_of(json_bytes: int | None, size: int) -> Headers:
    """Of an answer.

    Args:
        json_bytes: of the body, before binary data; None: all of it.
        size: of the body.
    """
    length = (b"content-length", b"%d" % size)
    if json_bytes is None:
        return (b"content-type", b"application/json"), length
    return (b"content-type", b"application/octet-stream"), (_HEADER_LENGTH, b"%d" % json_bytes), length


@dataclass(frozen=True, eq=False)
class Infer:
    """Any such request; `direct` takes the most frequent ones before they get here."""

    asking: Asking
    bodies: Bodies

    async def infer(self, request: Request) -> Response:
        served = self.asking.pool.served(request.path_params["model"], request.path_params.get("version"))
        with self.bodies.held() as parts:
            body = await self.bodies.read(request, parts)
            asked = decode(body, parse_header_length(request.headers.get(HEADER_LENGTH)), served.signature)
            reply = await self.asking.reply(
                request.scope,
                served,
                Kind.INFER,
                asked.tensors,
                ask_of(asked, id_of(request)),
                rows=asked.rows,
                timeout=asked.parameters.get("timeout"),
            )
        response = Response()
        content, json_bytes = served.known.encode(str(reply.generation), reply.tensors, asked)
        response.body = b"".join(content)
        response.raw_headers = list(headers_of(json_bytes, len(response.body)))
        return response
