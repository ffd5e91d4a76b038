"""HTTP: the Open Inference Protocol v2, and `/predict` for images.

https://github.com/kserve/open-inference-protocol; the binary tensor data extension as Triton documents it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ranksmith._version import __version__
from ranksmith.serve.frontend.answers import as_json, error_handlers
from ranksmith.serve.frontend.asking import Asking
from ranksmith.serve.frontend.bodies import Bodies
from ranksmith.serve.frontend.connection import Connection
from ranksmith.serve.frontend.docs import PAGE_HEADERS, docs_page
from ranksmith.serve.frontend.exchange import Direct
from ranksmith.serve.frontend.guard import Guard
from ranksmith.serve.frontend.infer import Infer
from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.metrics import CONTENT_TYPE
from ranksmith.serve.frontend.openapi import document_json
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.predict import Predict
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.frontend.shortcut import ShortConnection
from ranksmith.serve.frontend.statistics import Statistics
from ranksmith.serve.frontend.triton import model_config, repository_index
from ranksmith.serve.oip.extensions import AllStatistics, IndexRequest
from ranksmith.serve.oip.schema import ModelMetadata, ModelReady, ServerLive, ServerMetadata, ServerReady
from ranksmith.serve.oip.signature import InvalidRequestError

__all__ = ["make_http"]

_EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]


@dataclass(frozen=True, eq=False)
class _Handlers:
    pool: Pool
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
        return self._stats([self._served(request)])

    async def all_stats(self, request: Request) -> Response:
        return self._stats([served for _, served in sorted(self.pool.models.items())])

    def _stats(self, models: Sequence[Served]) -> Response:
        versions = [(served.hello.name, served.generation) for served in models]
        return as_json(AllStatistics(self.statistics.model_stats(versions)))

    async def metrics(self, request: Request) -> Response:
        # In a thread: the more generations there were, the longer it takes.
        return Response(await asyncio.to_thread(self.statistics.metrics), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        return Response(document_json(self._active), media_type="application/json")

    async def docs(self, request: Request) -> Response:
        # The first time it takes as long as some inferences.
        return HTMLResponse(await asyncio.to_thread(docs_page, self._active), headers=PAGE_HEADERS)

    @property
    def _active(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, str(served.generation)) for name, served in sorted(self.pool.models.items()))

    async def index(self, request: Request) -> Response:
        with self.bodies.held() as parts:
            body = await self.bodies.read(request, parts)
            try:
                asked = msgspec.json.decode(body or b"{}", type=IndexRequest)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidRequestError("the body is not JSON with 'ready' true or false") from error
        return as_json(repository_index(self.pool, only_ready=bool(asked.ready)))

    def _served(self, request: Request) -> Served:
        return self.pool.served(request.path_params["model"], request.path_params.get("version"))


def make_http(pool: Pool, limits: Limits, statistics: Statistics | None = None) -> tuple[Starlette, type[Connection]]:
    """The application of one front end and the kind of its connections: uvicorn's `app` and `http`.

    Args:
        statistics: to tell; None: of this front end only.
    """
    statistics = statistics or Statistics(pool.counts)
    bodies, asking = Bodies(limits), Asking(pool, limits)
    handlers = _Handlers(pool, bodies, statistics)
    app = Starlette(
        routes=_routes(handlers, Infer(asking, bodies), Predict(asking, bodies)),
        middleware=[Middleware(Guard)],
        exception_handlers=error_handlers(limits),
    )
    # A redirect would repeat the client's Host header as an address of ours.
    app.router.redirect_slashes = False
    made = {"limits": limits, "direct": Direct(asking, bodies)}
    return app, type("FrontEndConnection", (ShortConnection,), made)


def _routes(handlers: _Handlers, inferring: Infer, predicting: Predict) -> list[Route]:
    model = "/v2/models/{model}"
    per_model: list[tuple[str, Callable[[Request], Awaitable[Response]], str]] = [
        ("", handlers.model, "GET"),
        ("/ready", handlers.model_ready, "GET"),
        ("/config", handlers.config, "GET"),
        ("/stats", handlers.stats, "GET"),
        ("/infer", inferring.infer, "POST"),
        ("/predict", predicting.predict, "POST"),
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
        Route("/predict", predicting.predict, methods=["POST"]),
        *(
            Route(base + path, handler, methods=[method])
            for path, handler, method in per_model
            for base in (model, f"{model}/versions/{{version}}")
        ),
    ]
