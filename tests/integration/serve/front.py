"""A gRPC front end in the test's process, and a worker that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ranksmith.serve.frames import Frame, Kind, Tensor
from ranksmith.serve.frontend.grpc import GrpcServer, start_grpc
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.listener import listen
from ranksmith.serve.messages import (
    Answer,
    Ask,
    Failure,
    Hello,
    Prediction,
    Routing,
    TensorInfo,
    WorkerAt,
    dumps,
    loads,
)
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.oip.proto import open_inference_pb2_grpc as pb_grpc
from ranksmith.serve.transport import Link

__all__ = ["SERVING", "Code", "Front", "echo", "failing", "front_end", "infer", "run", "silent"]

Code = grpc.StatusCode
SERVING = 1

HELLO = Hello(
    name="m",
    generation=3,
    inputs=[TensorInfo("x", "FP32", [-1, 2])],
    outputs=[TensorInfo("y", "FP32", [-1, 2])],
    max_batch=4,
    # All that a test sends may lie before the worker.
    limit=64,
    alpha_ms=0.0,
    beta_ms=0.0,
    takes_images=True,
)

OnFrame = Callable[[Link, Frame], None]


@dataclass(eq=False)
class Front:
    """A front end in this process."""

    pool: Pool
    server: GrpcServer
    channel: grpc.aio.Channel
    folder: Path
    frames: asyncio.Queue[Frame] = field(default_factory=asyncio.Queue)

    @property
    def stub(self) -> Any:
        return pb_grpc.GRPCInferenceServiceStub(self.channel)

    @property
    def health(self) -> Any:
        return health_pb2_grpc.HealthStub(self.channel)

    async def refused(self, call: Awaitable[Any]) -> tuple[Code, str]:
        """The status of a call that must fail."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        details = caught.value.details()
        assert details is not None
        return caught.value.code(), details


def echo(link: Link, frame: Frame) -> None:
    """y = x; of an image, as many classes as asked for."""
    answer = Answer(queue_ms=0, compute_ms=0, rows=1)
    tensors = tuple(Tensor("y", each.datatype, each.shape, each.data) for each in frame.tensors)
    if frame.kind is Kind.IMAGE:
        classes = [Prediction(label=None, index=n, probability=0.5) for n in range(loads(frame.meta, Ask).top_k)]
        answer, tensors = Answer(queue_ms=0, compute_ms=0, rows=1, predictions=classes), ()
    link.send(Frame(Kind.RESULT, frame.request, frame.generation, meta=dumps(answer), tensors=tensors))


def silent(link: Link, frame: Frame) -> None:
    """Never answers."""


def failing(link: Link, frame: Frame) -> None:
    link.send(Frame(Kind.FAILURE, frame.request, meta=dumps(Failure(code="internal", message="it could not be run"))))


@contextlib.asynccontextmanager
async def front_end(
    folder: Path, worker: OnFrame | None, *, pool: Pool | None = None, deadline_s: float = 30.0, most_bytes: int = 2**20
) -> AsyncIterator[Front]:
    """A front end and its worker; with None, the worker is yet to come."""
    found = pool or Pool()
    server = await start_grpc(found, "127.0.0.1:0", deadline_s=deadline_s, most_bytes=most_bytes)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        front = Front(found, server, channel, folder)
        path = folder / "worker.sock"

        links: list[Link] = []

        def on_link(link: Link) -> None:
            links.append(link)
            link.send(Frame(Kind.HELLO, generation=3, meta=dumps(HELLO)))

        def on_frame(link: Link, frame: Frame) -> None:
            front.frames.put_nowait(frame)
            if worker is not None:
                worker(link, frame)

        async with await listen(
            path,
            on_link=on_link,
            on_frame=on_frame,
            on_lost=lambda link, error: None,
        ):
            workers = [WorkerAt(worker=1, name="m", generation=3, path=str(path))] if worker else []
            found.route(Routing(workers=workers, active={"m": 3}))
            if worker:
                watch = front.health.Watch(health_pb2.HealthCheckRequest(service="m"))
                while (await watch.read()).status != SERVING:
                    pass
                watch.cancel()
            try:
                yield front
            finally:
                await server.stop(None)
                for link in links:
                    link.close()
                while found.is_ready("m"):
                    await asyncio.sleep(0)


def infer(rows: int = 1, **fields: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(**({"model_name": "m"} | fields))
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    request.raw_input_contents.append(np.arange(2 * rows, dtype=np.float32).tobytes())
    return request


def run(test: Callable[[], Awaitable[None]]) -> None:
    """On the event loop that front ends use."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())
