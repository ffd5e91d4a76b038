"""A front end's pool, with workers that do as they are told."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from ranksmith.serve.frames import Frame, Kind, Tensor
from ranksmith.serve.frontend.held import Outcome, Pending
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.reply import RefusedError, Reply
from ranksmith.serve.listener import listen
from ranksmith.serve.messages import Answer, Ask, Routing, WorkerAt, dumps, loads
from ranksmith.serve.transport import Link
from tests.integration.serve.test_cancel import HELLO


def test_a_worker_that_goes_before_it_said_hello_is_followed_by_the_next(tmp_path: Path) -> None:
    async def scene() -> None:
        bugs: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: bugs.append(context))
        links: asyncio.Queue[Link] = asyncio.Queue()
        lost = asyncio.Event()
        pool = Pool()

        async with await listen(
            tmp_path / "worker.sock",
            on_link=links.put_nowait,
            on_frame=lambda link, frame: None,
            on_lost=lambda link, error: lost.set(),
        ):
            path = str(tmp_path / "worker.sock")
            first, second = (WorkerAt(worker=number, name="slow", generation=1, path=path) for number in (1, 2))
            pool.route(Routing(workers=[first], active={"slow": 1}))
            silent = await links.get()
            pool.route(Routing(workers=[], active={"slow": 1}))
            silent.close()
            await lost.wait()
            pool.route(Routing(workers=[second], active={"slow": 1}))
            talking = await links.get()
            talking.send(Frame(Kind.HELLO, generation=1, meta=dumps(HELLO)))
            while not pool.is_ready("slow"):
                await asyncio.sleep(0)
            talking.close()
            while pool.is_ready("slow"):
                await asyncio.sleep(0)
        assert bugs == []

    asyncio.run(scene())


def test_a_worker_that_says_hello_when_it_is_not_listed_any_more_is_given_nothing(tmp_path: Path) -> None:
    async def scene() -> None:
        links: asyncio.Queue[Link] = asyncio.Queue()
        given: list[Frame] = []
        pool = Pool()
        path = str(tmp_path / "worker.sock")
        first, second = (WorkerAt(worker=number, name="slow", generation=1, path=path) for number in (1, 2))

        async with await listen(
            path, on_link=links.put_nowait, on_frame=lambda link, frame: given.append(frame), on_lost=nothing
        ):
            pool.route(Routing(workers=[first], active={"slow": 1}))
            late = await links.get()
            pool.route(Routing(workers=[second], active={"slow": 1}))
            talking = await links.get()
            for link in (late, talking):
                link.send(Frame(Kind.HELLO, generation=1, meta=dumps(HELLO)))
            while not pool.is_ready("slow"):
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            talking.close()
            while pool.is_ready("slow"):
                await asyncio.sleep(0)
            late.close()

    asyncio.run(asyncio.wait_for(scene(), 10))


def test_requests_that_are_alike_share_a_frame_once_the_worker_has_something(tmp_path: Path) -> None:
    async def scene() -> None:
        frames: asyncio.Queue[tuple[Link, Frame]] = asyncio.Queue()
        outcomes: list[Outcome] = []
        pool = Pool()
        path = str(tmp_path / "worker.sock")

        later_s = time.monotonic() + 30

        def submit(value: int, alike: object, end_s: float = later_s) -> Pending:
            tensor = Tensor("x", "FP32", (1, 1), bytes([value] * 4))
            ask = Ask(ids=[str(value)])
            return pool.submit(
                "slow", Kind.INFER, (tensor,), ask, rows=1, deadline_s=end_s, over=outcomes.append, alike=alike
            )

        async def answered() -> tuple[Frame, Ask]:
            link, frame = await frames.get()
            answer = Answer(queue_ms=0.0, compute_ms=0.0, rows=len(frame.requests))
            link.send(frame._replace(kind=Kind.RESULT, meta=dumps(answer)))
            return frame, loads(frame.meta, Ask)

        async with await listen(
            path,
            on_link=lambda link: link.send(Frame(Kind.HELLO, generation=1, meta=dumps(HELLO))),
            on_frame=lambda link, frame: frames.put_nowait((link, frame)),
            on_lost=nothing,
        ):
            pool.route(Routing(workers=[WorkerAt(worker=1, name="slow", generation=1, path=path)], active={"slow": 1}))
            while not pool.is_ready("slow"):
                await asyncio.sleep(0)
            one, other = object(), object()
            submit(0, one)
            await asyncio.sleep(0)
            submit(1, one)
            gone = submit(2, one)
            submit(3, one)
            pool.cancel(gone)
            await asyncio.sleep(0.05)
            assert frames.qsize() == 1, "what does not fill a batch waits"
            await answered()
            frame, ask = await answered()
            assert (len(frame.requests), frame.tensors[0].shape, ask.ids) == (2, (2, 1), ["1", "3"])
            while len(outcomes) < 3:
                await asyncio.sleep(0)
            submit(4, one)
            submit(5, other)
            assert [len((await answered())[0].requests) for _ in range(2)] == [1, 1]
            while len(outcomes) < 5:
                await asyncio.sleep(0)
            assert [bytes(each.tensors[0].data)[0] for each in outcomes if isinstance(each, Reply)] == [0, 1, 3, 4, 5]
            counts = pool.counts.own("slow", 1)
            assert (counts.rows, counts.request.count, counts.in_flight, counts.failures) == (5, 5, 0, {})
            with pytest.raises(RefusedError):
                submit(6, one, end_s=time.monotonic())
            assert (counts.request.count, counts.in_flight, counts.failures) == (5, 0, {503: 1})
            for worker in pool._workers.values():
                assert worker.link is not None
                worker.link.close()
            while pool.is_ready("slow"):
                await asyncio.sleep(0)
            pool.route(Routing(workers=[], active={}))

    asyncio.run(asyncio.wait_for(scene(), 10))


def nothing(link: Link, error: Exception | None) -> None:
    """Whatever becomes of a link."""
