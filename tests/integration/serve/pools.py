"""Pools that answer by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from ranksmith.serve.frames import Kind, Tensor
from ranksmith.serve.frontend.held import Outcome, Pending
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.reply import Reply
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.messages import Ask, Hello, TensorInfo

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

    def submit(
        self,
        name: str,
        kind: Kind,
        tensors: tuple[Tensor, ...],
        ask: Ask,
        *,
        rows: int,
        deadline_s: float,
        over: Callable[[Outcome], None],
        alike: Hashable = None,
    ) -> Pending:
        async def work() -> None:
            over(await self.answer(tensors, rows))

        pending = Pending(len(self.given), (name, 1), kind, tensors, ask, rows, deadline_s, over, alike, 0.0, 0.0)
        self.given.append(asyncio.ensure_future(work()))
        return pending

    def cancel(self, pending: Pending) -> None:
        self.given[pending.number].cancel()


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
