"""gRPC: the Open Inference Protocol v2, the standard health service, and reflection.

https://github.com/kserve/open-inference-protocol; model configuration as Triton's clients understand it.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ranksmith._version import __version__
from ranksmith.serve.frames import Kind, Tensor
from ranksmith.serve.frontend import guard
from ranksmith.serve.frontend.pool import Pool, RefusedError, Reply, Served
from ranksmith.serve.frontend.statistics import Statistics
from ranksmith.serve.frontend.triton import data_type
from ranksmith.serve.messages import Ask
from ranksmith.serve.oip import datatypes, rpc
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.oip.proto import open_inference_pb2_grpc as pb_grpc
from ranksmith.serve.oip.signature import Asked, InvalidRequestError, quoted

__all__ = ["GrpcServer", "start_grpc"]

_SERVICE = "inference.GRPCInferenceService"

_SECONDS_PER_UNIT = 1e-6
_LONGEST_S = 86400.0
_MOST_CLASSES = 1000
_LOOK_S = 0.2
_QUIET_S = 0.05
_QUIET_WITHIN_S = 1.0

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


@dataclass(frozen=True, eq=False)
class GrpcServer:
    """A server that has been started.

    Attributes:
        port: where it listens.
    """

    port: int
    _server: grpc.aio.Server
    _inference: _Inference
    _stopping: asyncio.Event

    async def stop(self, grace_s: float | None) -> None:
        """Answer what has come, accept nothing more, end.

        Args:
            grace_s: after so long, what is left is cancelled; None: at once.
        """
        # Who watches our health would otherwise be waited for.
        self._stopping.set()
        if grace_s:
            await self._until_quiet()
        await self._server.stop(grace_s)

    async def _until_quiet(self) -> None:
        """Take what has arrived: gRPC hands calls over one by one, and cancels those that wait for it at the end."""
        limit_s = time.monotonic() + _QUIET_WITHIN_S
        seen = -1
        while seen != self._inference.calls and time.monotonic() < limit_s:
            seen = self._inference.calls
            await asyncio.sleep(_QUIET_S)


async def start_grpc(
    pool: Pool, listening_address: str, *, deadline_s: float, most_bytes: int, statistics: Statistics | None = None
) -> GrpcServer:
    """Listen, beside other front ends, and answer from the pool.

    Args:
        listening_address: HOST:PORT.
        deadline_s: for requests that do not say theirs.
        most_bytes: of one request.
        statistics: are told of every request.

    Raises:
        RuntimeError: the port is taken.
    """
    options = [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", most_bytes),
        ("grpc.max_send_message_length", -1),
    ]
    server = grpc.aio.server(options=options)
    health = _Health(pool)
    inference = _Inference(pool, deadline_s, statistics or Statistics())
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(inference.servicer, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    names = (_SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=_described())
    port = server.add_insecure_port(listening_address)
    await server.start()
    return GrpcServer(port, server, inference, health.stopping)


@dataclass(eq=False)
class _Inference:
    """
    Attributes:
        calls: so many requests have begun.
    """

    pool: Pool
    deadline_s: float
    statistics: Statistics
    calls: int = 0

    @property
    def servicer(self) -> SimpleNamespace:
        return SimpleNamespace(
            ServerLive=_answering(self.server_live),
            ServerReady=_answering(self.server_ready),
            ModelReady=_answering(self.model_ready),
            ServerMetadata=_answering(self.server_metadata),
            ModelMetadata=_answering(self.model_metadata),
            ModelConfig=_answering(self.model_config),
            ModelInfer=_answering(self.infer),
        )

    async def server_live(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.pool.is_all_ready)

    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        ready = self.pool.is_ready(self.pool.known(request.name))
        if ready:
            self._served(request.name, request.version)
        return pb.ModelReadyResponse(ready=ready)

    async def server_metadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="ranksmith", version=__version__, extensions=["model_configuration"])

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        served = self._served(request.name, request.version)
        response = pb.ModelMetadataResponse(
            name=served.hello.name, versions=[str(served.generation)], platform="onnxruntime_onnx"
        )
        for told, infos in ((response.inputs, served.hello.inputs), (response.outputs, served.hello.outputs)):
            for info in infos:
                told.add(name=info.name, datatype=info.datatype, shape=info.shape)
        return response

    async def model_config(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=_config(self._served(request.name, request.version)))

    async def infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        self.calls += 1
        served = self._served(request.model_name, request.model_version)
        image = rpc.image_signature(request) if _wants_images(served) else None
        asked = rpc.decode(request, image or served.signature)
        deadline_s = self._deadline(asked, context)
        request_id = guard.request_id(dict(context.invocation_metadata()))
        reply = await (self._classify if image else self._run)(served, asked, deadline_s, request_id)
        tensors = rpc.class_tensors(reply.answer.predictions or []) if image else reply.tensors
        return rpc.encode(served.hello.name, str(reply.generation), asked, tensors)

    async def _run(self, served: Served, asked: Asked, deadline_s: float, request_id: str) -> Reply:
        ask = Ask(id=request_id, outputs=[output.name for output in asked.outputs])
        return await self._submit(served, Kind.INFER, asked.tensors, ask, asked.rows, deadline_s)

    async def _classify(self, served: Served, asked: Asked, deadline_s: float, request_id: str) -> Reply:
        (encoded,) = datatypes.split_elements(asked.tensors[0].data)
        if not encoded:
            raise InvalidRequestError(f"input {asked.tensors[0].name!r} has no image in it")
        tensor = Tensor("image", "UINT8", (len(encoded),), encoded)
        ask = Ask(id=request_id, top_k=_top_k(asked))
        return await self._submit(served, Kind.IMAGE, (tensor,), ask, 1, deadline_s)

    async def _submit(
        self, served: Served, kind: Kind, tensors: tuple[Tensor, ...], ask: Ask, rows: int, deadline_s: float
    ) -> Reply:
        name = served.hello.name

        def submit() -> asyncio.Future[Reply]:
            return self.pool.submit(name, kind, tensors, ask, rows=rows, deadline_s=deadline_s)

        return await self.statistics.counted(name, served.generation, rows, submit)

    def _served(self, name: str, version: str) -> Served:
        return self.pool.served(name, version or None)

    def _deadline(self, asked: Asked, context: Context) -> float:
        """On CLOCK_MONOTONIC: the earlier of `grpc-timeout` and the protocol's `timeout`, which is in microseconds."""
        limits = [] if (left_s := context.time_remaining()) is None else [left_s]
        timeout = asked.parameters.get("timeout")
        if isinstance(timeout, int | float) and not isinstance(timeout, bool) and timeout > 0:
            limits.append(timeout * _SECONDS_PER_UNIT)
        return time.monotonic() + min(*limits, _LONGEST_S) if limits else time.monotonic() + self.deadline_s


@dataclass(frozen=True, eq=False)
class _Health:
    """grpc.health.v1, from what the pool knows: of everything, of our service, and of each model by its name."""

    pool: Pool
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def servicer(self) -> SimpleNamespace:
        return SimpleNamespace(Check=_answering(self.check), Watch=self.watch, List=_answering(self.list_all))

    async def check(self, request: Any, context: Context) -> Any:
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            raise RefusedError(404, f"there is no service {quoted(request.service)}")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        told = None
        while not self.stopping.is_set():
            status = self._status(request.service)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            try:
                await asyncio.wait_for(self.stopping.wait(), _LOOK_S)
            except TimeoutError:
                continue

    async def list_all(self, request: Any, context: Context) -> Any:
        response = health_pb2.HealthListResponse()
        for name in ("", _SERVICE, *self.pool.names):
            response.statuses[name].status = self._status(name)
        return response

    def _status(self, service: str) -> Any:
        statuses = health_pb2.HealthCheckResponse
        if service in ("", _SERVICE):
            ready = self.pool.is_all_ready
        elif self.pool.is_known(service):
            ready = self.pool.is_ready(service)
        else:
            return statuses.SERVICE_UNKNOWN
        return statuses.SERVING if ready and not self.stopping.is_set() else statuses.NOT_SERVING


def _answering(handler: _Handler) -> _Handler:
    """The handler, with what it raises told as a status."""

    async def answer(request: Any, context: Context) -> Any:
        metadata: tuple[tuple[str, str], ...] = ()
        try:
            return await handler(request, context)
        except InvalidRequestError as error:
            code, message = grpc.StatusCode.INVALID_ARGUMENT, error.message
        except RefusedError as error:
            code, message = _code(error), error.message
            if error.is_overload and error.retry_after_s is not None:
                metadata = (("grpc-retry-pushback-ms", str(round(1e3 * error.retry_after_s))),)
        except Exception as error:
            code, message = grpc.StatusCode.INTERNAL, "a bug of ours; it has been logged"
            structlog.get_logger("ranksmith.frontend").error(
                "a bug of ours", what=repr(error), traceback=traceback.format_exc()
            )
        return await context.abort(code, message, metadata)

    return answer


def _code(error: RefusedError) -> grpc.StatusCode:
    if error.is_overload:
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return _CODES.get(error.status, grpc.StatusCode.INTERNAL)


def _wants_images(served: Served) -> bool:
    return served.hello.takes_images and served.hello.inputs[0].datatype != "BYTES"


def _top_k(asked: Asked) -> int:
    value = asked.parameters.get("top_k", 5)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_CLASSES:
        raise InvalidRequestError(f"parameter 'top_k' must be a number from 1 to {_MOST_CLASSES}")
    return value


def _config(served: Served) -> pb.ModelConfig:
    hello = served.hello
    batched = served.is_batched
    config = pb.ModelConfig(
        name=hello.name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=hello.max_batch if batched else 0,
    )
    for told, infos in ((config.input, hello.inputs), (config.output, hello.outputs)):
        for info in infos:
            told.add(name=info.name, data_type=data_type(info), dims=info.shape[1:] if batched else info.shape)
    return config


def _described() -> DescriptorPool:
    """What reflection tells of: our messages are not in the pool where the other services' are."""
    pool = DescriptorPool()
    for file in (pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool
