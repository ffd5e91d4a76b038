"""How requests are dealt out to workers that do as they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ranksmith.serve.frames import Frame, Kind, Tensor
from ranksmith.serve.frontend.held import Outcome
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.returning import Client
from ranksmith.serve.listener import listen
from ranksmith.serve.messages import Answer, Ask, Routing, WorkerAt, dumps
from ranksmith.serve.transport import Link
from tests.integration.serve.test_cancel import HELLO

ALIKE = object()


@dataclass
class Scene:
    """A pool whose workers answer when they are told to.

    Attributes:
        given: frames, with the link of the worker that has them.
    """

    pool: Pool
    given: asyncio.Queue[tuple[Link, Frame]] = field(default_factory=asyncio.Queue)
    outcomes: list[Outcome] = field(default_factory=list)

    def ask(self, client: Client | None = None) -> None:
        self.pool.submit(
            "slow",
            Kind.INFER,
            (Tensor("x", "FP32", (1, 1), bytes(4)),),
            Ask(ids=["a"]),
            rows=1,
            deadline_s=time.monotonic() + 3600,
            over=self.outcomes.append,
            alike=ALIKE,
            client=client,
        )

    async def answer(self) -> tuple[Link, int]:
        """Answer the next frame; who had it, and how many requests were in it."""
        link, frame = await self.given.get()
        count = len(frame.requests)
        before = len(self.outcomes)
        link.send(frame._replace(kind=Kind.RESULT, meta=dumps(Answer(queue_ms=0.0, compute_ms=0.0, rows=count))))
        while len(self.outcomes) < before + count:
            await asyncio.sleep(0)
        return link, count

    async def is_quiet(self) -> bool:
        """Whether no worker is given anything for a while."""
        await asyncio.sleep(0.05)
        return self.given.empty()

    async def quicken(self, *clients: Client) -> None:
        """Have each of them ask, be answered and ask again at once; then all are answered together."""
        for client in clients:
            self.ask(client)
            await self.answer()
        for client in clients:
            self.ask(client)
        await self.answer()


def test_a_worker_waits_for_those_it_has_answered_to_ask_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, patience_s=10) as on:
            one, other = Client(), Client()
            await on.quicken(one, other)
            on.ask(one)
            assert await on.is_quiet()
            on.ask(other)
            assert (await on.answer())[1] == 2

    run(play())


def test_a_worker_waits_no_longer_than_it_pays(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, patience_s=0.1) as on:
            one, other = Client(), Client()
            await on.quicken(one, other)
            on.ask(one)
            assert (await on.answer())[1] == 1

    run(play())


def test_a_worker_does_not_wait_for_strangers(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, patience_s=10) as on:
            slow = Client()
            on.ask(slow)
            on.ask()
            await on.answer()
            on.ask()
            assert (await on.answer())[1] == 1

    run(play())


def test_where_several_workers_have_nothing_none_of_them_waits(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, patience_s=10, workers=2) as on:
            one, other = Client(), Client()
            for client in (one, other, one, other):
                on.ask(client)
                await on.answer()
            on.ask(one)
            assert (await on.answer())[1] == 1

    run(play())


def test_what_there_is_is_shared_among_the_workers(tmp_path: Path) -> None:
    async def play() -> None:
        async with scene(tmp_path, workers=2) as on:
            for _ in range(4):
                on.ask()
            (first, one), (second, other) = await on.answer(), await on.answer()
            assert (one, other) == (2, 2)
            assert first is not second

    run(play())


@asynccontextmanager
async def scene(folder: Path, *, patience_s: float = 0.0, workers: int = 1) -> AsyncIterator[Scene]:
    """
    Args:
        patience_s: see `Returning`.
    """
    playing = Scene(Pool())
    pool, path = playing.pool, str(folder / "worker.sock")
    async with await listen(
        path,
        on_link=lambda link: link.send(Frame(Kind.HELLO, generation=1, meta=dumps(HELLO))),
        on_frame=lambda link, frame: playing.given.put_nowait((link, frame)),
        on_lost=lambda link, error: None,
    ):
        at = [WorkerAt(worker=number + 1, name="slow", generation=1, path=path) for number in range(workers)]
        pool.route(Routing(workers=at, active={"slow": 1}))
        while sum(worker.link is not None for worker in pool._workers.values()) < workers:
            await asyncio.sleep(0)
        returning = pool._stations["slow", 1].returning
        returning.patience_s, returning.trust = patience_s, 1.0
        yield playing
        for worker in list(pool._workers.values()):
            assert worker.link is not None
            worker.link.close()
        while pool.is_ready("slow"):
            await asyncio.sleep(0)
        pool.route(Routing(workers=[], active={}))


def run(play: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(play, 20))
