"""Pools that answer by themselves."""

from __future__ import annotations

import asyncio

from ranksmith.serve.frames import Tensor
from ranksmith.serve.frontend.held import Pending
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.reply import Reply
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.frontend.station import Station
from ranksmith.serve.messages import Hello, TensorInfo

__all__ = ["WorkerlessPool", "introduce"]


class WorkerlessPool(Pool):
    """Answers what it is given by itself.

    Attributes:
        given: a task for each request.
    """

    def __init__(self) -> None:
        super().__init__()
        self.given: list[asyncio.Task[None]] = []

    async def answer(self, tensors: tuple[Tensor, ...], rows: int) -> Reply:
        raise NotImplementedError

    def _station(self, name: str, generation: int) -> Station:
        return self._stations.setdefault((name, generation), _Answering(self))


class _Answering(Station):
    """Runs its requests without a worker."""

    def __init__(self, pool: WorkerlessPool) -> None:
        super().__init__("m", 1)
        self._pool = pool
        self._running: dict[int, asyncio.Task[None]] = {}

    def add(self, pending: Pending) -> None:
        self._running[pending.number] = task = asyncio.ensure_future(self._answer(pending))
        self._pool.given.append(task)

    def withdraw(self, pending: Pending) -> None:
        self._running[pending.number].cancel()

    async def _answer(self, pending: Pending) -> None:
        self._pool._finish(pending, await self._pool.answer(pending.tensors, pending.rows))


def introduce(pool: Pool, tensor: TensorInfo, *, takes_images: bool) -> None:
    """Have the pool know a model `m` that takes and gives such a tensor, though no worker runs it."""
    hello = Hello(
        name="m",
        generation=1,
        inputs=[tensor],
        outputs=[tensor],
        max_batch=4,
        limit=4,
        alpha_ms=1,
        beta_ms=1,
        takes_images=takes_images,
    )
    pool.models["m"] = Served(hello, 1)
    pool._names.add("m")
    pool._active["m"] = 1
