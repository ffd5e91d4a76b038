"""What nobody waits for any more is taken out of the worker's queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import uvicorn

from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.frontend.http import make_http
from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.listener import listen
from ranksmith.serve.messages import Hello, Routing, TensorInfo, WorkerAt, dumps
from ranksmith.serve.transport import Link
from tests.integration.serve.front import run

HELLO = Hello(
    name="slow",
    generation=1,
    inputs=[TensorInfo("x", "FP32", [-1, 1])],
    outputs=[TensorInfo("y", "FP32", [-1, 1])],
    max_batch=4,
    limit=4,
    alpha_ms=1.0,
    beta_ms=1.0,
    takes_images=True,
)


@asynccontextmanager
async def front_end(folder: Path) -> AsyncIterator[tuple[int, asyncio.Queue[Frame]]]:
    """The port of a front end whose only worker never answers, and what that is told."""
    frames: asyncio.Queue[Frame] = asyncio.Queue()
    lost = asyncio.Event()
    path = folder / "worker.sock"
    links: list[Link] = []

    def on_link(link: Link) -> None:
        links.append(link)
        link.send(Frame(Kind.HELLO, generation=1, meta=dumps(HELLO)))

    worker = await listen(path, on_link, lambda link, frame: frames.put_nowait(frame), lambda link, error: lost.set())
    pool = Pool()
    pool.route(Routing(workers=[WorkerAt(worker=1, name="slow", generation=1, path=str(path))], active={"slow": 1}))
    while not pool.is_ready("slow"):
        await asyncio.sleep(0)
    app, http = make_http(pool, Limits())
    server = uvicorn.Server(uvicorn.Config(app, http=http, port=0, lifespan="off", log_level="error", ws="none"))
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], frames
    finally:
        server.should_exit = True
        await serving
        for link in links:
            link.close()
        await lost.wait()
        worker.close()
        await worker.wait_closed()


def test_a_closed_connection_cancels_its_request(tmp_path: Path) -> None:
    async def scene() -> None:
        async with front_end(tmp_path) as (port, frames):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nlook")
            asked = await frames.get()
            assert asked.kind is Kind.IMAGE
            writer.close()
            await writer.wait_closed()
            told = await asyncio.wait_for(frames.get(), 30)
            assert (told.kind, told.request) == (Kind.CANCEL, asked.request)

    asyncio.run(scene())


def test_a_pipeline_that_is_closed_is_no_bug(tmp_path: Path) -> None:
    async def scene() -> None:
        async with front_end(tmp_path) as (port, frames):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nlook" * 2)
            assert (await frames.get()).kind is Kind.IMAGE
            writer.close()
            await writer.wait_closed()
            assert (await frames.get()).kind is Kind.CANCEL

    with structlog.testing.capture_logs() as logged:
        # As front ends do; its transports refuse what is written after their end.
        run(scene)
    assert logged == []


def test_a_deadline_that_passes_cancels_its_request(tmp_path: Path) -> None:
    body = b'{"parameters":{"timeout":50000},"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1.0]}]}'

    async def scene() -> None:
        async with front_end(tmp_path) as (port, frames):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            asked = await frames.get()
            assert asked.deadline_s > 0
            assert (await frames.get()).kind is Kind.CANCEL
            assert b" 504 " in await reader.readline()
            writer.close()
            await writer.wait_closed()

    asyncio.run(scene())
