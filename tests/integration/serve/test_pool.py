"""A front end's pool, with workers that do as they are told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.listener import listen
from ranksmith.serve.messages import Routing, WorkerAt, dumps
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
