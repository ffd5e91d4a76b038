"""HTTP: the Open Inference Protocol v2, and `/predict` for images.

https://github.com/kserve/open-inference-protocol; the binary tensor data extension as Triton documents it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ranksmith._version import __version__
from ranksmith.serve.frames import Kind, Tensor
from ranksmith.serve.frontend.pool import Pool, RefusedError, Served
from ranksmith.serve.messages import Ask
from ranksmith.serve.oip.rest import (
    HEADER_LENGTH,
    InvalidRequestError,
    ModelSignature,
    TensorSpec,
    decode,
    encode,
    parse_header_length,
)

__all__ = ["Limits", "make_app"]

_SECONDS_PER_UNIT = 1e-6


@dataclass(frozen=True)
class Limits:
    """
    Attributes:
        body_bytes: of one request.
        deadline_s: for requests that do not say theirs.
    """

    body_bytes: int = 64 << 20
    deadline_s: float = 10.0


@dataclass(frozen=True, eq=False)
class _Handlers:
    pool: Pool
    limits: Limits

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = bool(self.pool.names) and all(self.pool.is_ready(name) for name in self.pool.names)
        return _json({"ready": ready}, status=200 if ready else 503)

    async def server(self, request: Request) -> Response:
        return _json({"name": "ranksmith", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def model_ready(self, request: Request) -> Response:
        name = self._name(request)
        ready = self.pool.is_ready(name)
        return _json({"name": name, "ready": ready}, status=200 if ready else 503)

    async def model(self, request: Request) -> Response:
        served = self._served(request)
        return _json(
            {
                "name": served.hello.name,
                "versions": [str(served.generation)],
                "platform": "onnxruntime_onnx",
                "inputs": served.hello.inputs,
                "outputs": served.hello.outputs,
            }
        )

    async def infer(self, request: Request) -> Response:
        served = self._served(request)
        body = await self._body(request)
        asked = decode(body, parse_header_length(request.headers.get(HEADER_LENGTH)), _signature(served))
        reply = await self.pool.submit(
            served.hello.name,
            Kind.INFER,
            asked.tensors,
            Ask(outputs=[output.name for output in asked.outputs]),
            rows=asked.rows,
            deadline_s=self._deadline(asked.parameters.get("timeout")),
        )
        order = {output.name: place for place, output in enumerate(asked.outputs)}
        outputs = sorted(reply.tensors, key=lambda tensor: order[tensor.name])
        parts, header = encode(served.hello.name, str(reply.generation), asked.id, outputs, asked)
        content = b"".join(parts)
        if header is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(header)})

    async def predict(self, request: Request) -> Response:
        served = self._served(request) if "model" in request.path_params else self._only()
        top_k = _top_k(request)
        encoded = await self._image(request)
        if not encoded:
            raise InvalidRequestError("there is no image: send it as the body, or as multipart field 'image'")
        reply = await self.pool.submit(
            served.hello.name,
            Kind.IMAGE,
            (Tensor("image", "UINT8", (len(encoded),), encoded),),
            Ask(top_k=top_k),
            rows=1,
            deadline_s=self._deadline(None),
        )
        predictions = reply.answer.predictions or []
        if "text/plain" in request.headers.get("accept", ""):
            best = predictions[0]
            return PlainTextResponse(f"{best.label if best.label is not None else best.index}\n")
        return _json({"model": served.hello.name, "version": str(reply.generation), "predictions": predictions})

    def _name(self, request: Request) -> str:
        name = request.path_params["model"]
        if not self.pool.is_known(name):
            raise RefusedError(404, f"there is no model {name!r}")
        return str(name)

    def _served(self, request: Request) -> Served:
        name = self._name(request)
        served = self.pool.models.get(name)
        if served is None:
            raise RefusedError(503, f"the model {name!r} is not ready", retry_after_s=1.0)
        version = request.path_params.get("version")
        if version not in (None, str(served.generation)):
            raise RefusedError(404, f"the model {name!r} has no version {version!r}")
        return served

    def _only(self) -> Served:
        """The model, where there is one; with several the path has to say which."""
        names = self.pool.names
        if len(names) != 1:
            raise RefusedError(404, f"say which model: /v2/models/NAME/predict, NAME one of {', '.join(names)}")
        served = self.pool.models.get(names[0])
        if served is None:
            raise RefusedError(503, f"the model {names[0]!r} is not ready", retry_after_s=1.0)
        return served

    def _deadline(self, timeout: object) -> float:
        """On CLOCK_MONOTONIC; the protocol's `timeout` is in microseconds."""
        seconds = self.limits.deadline_s
        if isinstance(timeout, int | float) and timeout > 0:
            seconds = timeout * _SECONDS_PER_UNIT
        return time.monotonic() + seconds

    async def _body(self, request: Request) -> bytes:
        """
        Raises:
            RefusedError: it is larger than allowed; told before it is read where its length is known.
        """
        limit = self.limits.body_bytes
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise RefusedError(413, f"the body of {int(declared):,} bytes is over the limit of {limit:,}")
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise RefusedError(413, f"the body is over the limit of {limit:,} bytes")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _image(self, request: Request) -> bytes:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return await self._body(request)
        body = await self._body(request)

        async def whole() -> AsyncGenerator[bytes, None]:
            yield body

        return await _file(MultiPartParser(request.headers, whole()), "image")


async def _file(parser: MultiPartParser, name: str) -> bytes:
    """One file out of a form.

    Raises:
        InvalidRequestError: the form is damaged, or has no such file.
    """
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise InvalidRequestError(f"the form cannot be read: {error}") from error
    try:
        found = form.get(name)
        if found is None or isinstance(found, str):
            raise InvalidRequestError(f"the form has no file in field {name!r}")
        return bytes(await found.read())
    finally:
        await form.close()


def _top_k(request: Request) -> int:
    text = request.query_params.get("top_k", "5")
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise InvalidRequestError(f"top_k is {text!r}: a number from 1 to 1000")
    return int(text)


def _signature(served: Served) -> ModelSignature:
    hello = served.hello
    inputs, outputs = (
        tuple(TensorSpec(info.name, info.datatype, tuple(info.shape)) for info in infos)
        for infos in (hello.inputs, hello.outputs)
    )
    return ModelSignature(hello.name, inputs, outputs, hello.max_batch)


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    response = _json({"error": error.message}, error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(round(error.retry_after_s))
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    return _json({"error": error.message}, 400)


async def _other(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Response(
        msgspec.json.encode({"error": error.detail}), error.status_code, error.headers, media_type="application/json"
    )


async def _gone(request: Request, error: Exception) -> Response:
    # Nobody reads it: the client closed the connection.
    return Response(status_code=499)


def make_app(pool: Pool, limits: Limits) -> Starlette:
    """The application of one front end."""
    handlers = _Handlers(pool, limits)
    model = "/v2/models/{model}"
    versioned = model + "/versions/{version}"
    routes = [
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
        Route("/v2", handlers.server),
        Route("/predict", handlers.predict, methods=["POST"]),
    ]
    per_model: list[tuple[str, Callable[[Request], Awaitable[Response]], str]] = [
        ("", handlers.model, "GET"),
        ("/ready", handlers.model_ready, "GET"),
        ("/infer", handlers.infer, "POST"),
        ("/predict", handlers.predict, "POST"),
    ]
    routes += [
        Route(base + path, handler, methods=[method])
        for path, handler, method in per_model
        for base in (model, versioned)
    ]
    return Starlette(
        routes=routes,
        exception_handlers={
            RefusedError: _refused,
            InvalidRequestError: _invalid,
            HTTPException: _other,
            ClientDisconnect: _gone,
        },
    )
