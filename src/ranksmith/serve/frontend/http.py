"""HTTP: the Open Inference Protocol v2, and `/predict` for images.

https://github.com/kserve/open-inference-protocol; the binary tensor data extension as Triton documents it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from ranksmith._version import __version__
from ranksmith.serve.frames import Kind, Tensor
from ranksmith.serve.frontend.answers import as_json, error_handlers
from ranksmith.serve.frontend.bodies import Bodies
from ranksmith.serve.frontend.docs import PAGE_HEADERS, docs_page
from ranksmith.serve.frontend.guard import Guard
from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.metrics import CONTENT_TYPE
from ranksmith.serve.frontend.openapi import document_json
from ranksmith.serve.frontend.pool import Pool, RefusedError, Reply, Served
from ranksmith.serve.frontend.statistics import Statistics
from ranksmith.serve.frontend.triton import model_config, repository_index
from ranksmith.serve.messages import Ask
from ranksmith.serve.oip.extensions import AllStatistics, IndexRequest, ModelStatistics
from ranksmith.serve.oip.rest import (
    HEADER_LENGTH,
    InvalidRequestError,
    decode,
    encode,
    parse_header_length,
    quoted,
)
from ranksmith.serve.oip.schema import ModelMetadata, ModelReady, Predictions, ServerLive, ServerMetadata, ServerReady

__all__ = ["Limits", "make_app"]

_SECONDS_PER_UNIT = 1e-6
_MOST_CLASSES = 1000
_EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]


@dataclass(frozen=True, eq=False)
class _Handlers:
    pool: Pool
    limits: Limits
    bodies: Bodies
    statistics: Statistics

    async def live(self, request: Request) -> Response:
        return as_json(ServerLive(True))

    async def ready(self, request: Request) -> Response:
        ready = self.pool.is_all_ready
        return as_json(ServerReady(ready), status=200 if ready else 503)

    async def server(self, request: Request) -> Response:
        return as_json(ServerMetadata("ranksmith", __version__, _EXTENSIONS))

    async def model_ready(self, request: Request) -> Response:
        name = self.pool.known(request.path_params["model"])
        if name in self.pool.models:
            self._served(request)
        ready = self.pool.is_ready(name)
        return as_json(ModelReady(name, ready), status=200 if ready else 503)

    async def model(self, request: Request) -> Response:
        served = self._served(request)
        hello, versions = served.hello, [str(served.generation)]
        return as_json(ModelMetadata(hello.name, versions, "onnxruntime_onnx", hello.inputs, hello.outputs))

    async def config(self, request: Request) -> Response:
        return as_json(model_config(self._served(request)))

    async def stats(self, request: Request) -> Response:
        return as_json(AllStatistics([self._stats(self._served(request))]))

    async def all_stats(self, request: Request) -> Response:
        return as_json(AllStatistics([self._stats(served) for _, served in sorted(self.pool.models.items())]))

    def _stats(self, served: Served) -> ModelStatistics:
        name, generation = served.hello.name, served.generation
        return self.statistics.of(name, generation).as_triton(name, str(generation))

    async def metrics(self, request: Request) -> Response:
        return Response(self.statistics.metrics.text(), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        return Response(document_json(self._active), media_type="application/json")

    async def docs(self, request: Request) -> Response:
        # The first time it takes as long as some inferences.
        return HTMLResponse(await asyncio.to_thread(docs_page, self._active), headers=PAGE_HEADERS)

    @property
    def _active(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, str(served.generation)) for name, served in sorted(self.pool.models.items()))

    async def index(self, request: Request) -> Response:
        async with self.bodies.body(request) as body:
            try:
                asked = msgspec.json.decode(body or b"{}", type=IndexRequest)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidRequestError("the body is not JSON with 'ready' true or false") from error
        return as_json(repository_index(self.pool, only_ready=bool(asked.ready)))

    async def infer(self, request: Request) -> Response:
        served = self._served(request)
        async with self.bodies.body(request) as body:
            asked = decode(body, parse_header_length(request.headers.get(HEADER_LENGTH)), served.signature)
            deadline_s = self._deadline(asked.parameters.get("timeout"))
            ask = Ask(outputs=[output.name for output in asked.outputs])
            reply = await self._submit(
                request, served, Kind.INFER, asked.tensors, ask, rows=asked.rows, deadline_s=deadline_s
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
        if not served.hello.takes_images:
            raise RefusedError(400, f"the model {served.hello.name!r} takes no images")
        ask = Ask(top_k=_top_k(request))
        async with self.bodies.image(request) as encoded:
            image = Tensor("image", "UINT8", (len(encoded),), encoded)
            reply = await self._submit(
                request, served, Kind.IMAGE, (image,), ask, rows=1, deadline_s=self._deadline(None)
            )
        predictions = reply.answer.predictions or []
        if "text/plain" in request.headers.get("accept", ""):
            best = predictions[0]
            return PlainTextResponse(f"{best.label if best.label is not None else best.index}\n")
        return as_json(Predictions(served.hello.name, str(reply.generation), predictions))

    async def _submit(
        self,
        request: Request,
        served: Served,
        kind: Kind,
        tensors: tuple[Tensor, ...],
        ask: Ask,
        *,
        rows: int,
        deadline_s: float,
    ) -> Reply:
        """The reply; a client that closes its connection takes its rows out of the queue.

        Raises:
            RefusedError: as the pool does.
            ClientDisconnect: nobody waits for the answer any more.
        """
        name = served.hello.name
        submitted = self.pool.submit(name, kind, tensors, ask, rows=rows, deadline_s=deadline_s)
        answering = asyncio.ensure_future(self.statistics.counted(name, served.generation, rows, submitted))
        # The body has been read, so what comes next is the end of the connection.
        gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise ClientDisconnect
            return answering.result()
        finally:
            answering.cancel()
            gone.cancel()

    def _served(self, request: Request) -> Served:
        return self.pool.served(request.path_params["model"], request.path_params.get("version"))

    def _only(self) -> Served:
        """The model, where there is one; with several the path has to say which."""
        names = self.pool.names
        if len(names) != 1:
            raise RefusedError(404, f"say which model: /v2/models/NAME/predict, NAME one of {', '.join(names)}")
        return self.pool.served(names[0])

    def _deadline(self, timeout: object) -> float:
        """On CLOCK_MONOTONIC; the protocol's `timeout` is in microseconds, 0 for none."""
        seconds = self.limits.deadline_s
        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < 2**64:
                raise InvalidRequestError("parameter 'timeout' must be a number of microseconds, 0 or more")
            if timeout > 0:
                seconds = min(timeout * _SECONDS_PER_UNIT, self.limits.longest_deadline_s)
        return time.monotonic() + seconds


def _top_k(request: Request) -> int:
    text = request.query_params.get("top_k", "5")
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_CLASSES))
    if not is_number or not 1 <= int(text) <= _MOST_CLASSES:
        raise InvalidRequestError(f"top_k is {quoted(text)}: it must be a number from 1 to {_MOST_CLASSES}")
    return int(text)


def make_app(pool: Pool, limits: Limits, statistics: Statistics | None = None) -> Starlette:
    """The application of one front end.

    Args:
        statistics: to count in; None: its own.
    """
    handlers = _Handlers(pool, limits, Bodies(limits), statistics or Statistics())
    app = Starlette(routes=_routes(handlers), middleware=[Middleware(Guard)], exception_handlers=error_handlers(limits))
    # A redirect would repeat the client's Host header as an address of ours.
    app.router.redirect_slashes = False
    return app


def _routes(handlers: _Handlers) -> list[Route]:
    model = "/v2/models/{model}"
    per_model: list[tuple[str, Callable[[Request], Awaitable[Response]], str]] = [
        ("", handlers.model, "GET"),
        ("/ready", handlers.model_ready, "GET"),
        ("/config", handlers.config, "GET"),
        ("/stats", handlers.stats, "GET"),
        ("/infer", handlers.infer, "POST"),
        ("/predict", handlers.predict, "POST"),
    ]
    return [
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
        Route("/v2", handlers.server),
        # Where the protocol's OpenAPI file has it; its text says /v2.
        Route("/v2/", handlers.server),
        Route("/metrics", handlers.metrics),
        Route("/openapi.json", handlers.openapi),
        Route("/docs", handlers.docs),
        Route("/v2/models/stats", handlers.all_stats),
        Route("/v2/repository/index", handlers.index, methods=["POST"]),
        Route("/predict", handlers.predict, methods=["POST"]),
        *(
            Route(base + path, handler, methods=[method])
            for path, handler, method in per_model
            for base in (model, f"{model}/versions/{{version}}")
        ),
    ]
