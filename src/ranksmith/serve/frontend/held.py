"""Requests that are held until they are answered, and the workers that have them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ranksmith.serve.frames import Kind, Tensor
from ranksmith.serve.frontend.reply import Reply
from ranksmith.serve.messages import Ask, WorkerAt
from ranksmith.serve.transport import Link

__all__ = ["Pending", "Worker"]

_DEATHS_SUSPECT = 2


@dataclass(eq=False)
class Pending:
    """A request.

    Attributes:
        since_s: when it was admitted, on CLOCK_MONOTONIC.
        alone_s: see `Pace.alone_s`; 0: nothing was expected.
        deaths: of workers that had it.
    """

    name: str
    request: int
    kind: Kind
    tensors: tuple[Tensor, ...]
    ask: Ask
    rows: int
    generation: int
    deadline_s: float
    future: asyncio.Future[Reply]
    since_s: float
    alone_s: float
    deaths: int = 0

    @property
    def is_suspect(self) -> bool:
        return self.deaths >= _DEATHS_SUSPECT


@dataclass(eq=False)
class Worker:
    """
    Attributes:
        link: once it has said hello, and until it is lost.
        rows: of the requests that it has.
    """

    at: WorkerAt
    link: Link | None = None
    pending: dict[int, Pending] = field(default_factory=dict)
    rows: int = 0

    def take(self, pending: Pending) -> None:
        self.pending[pending.request] = pending
        self.rows += pending.rows

    def give_back(self, request: int) -> Pending | None:
        """The request, which is not in flight here any more; None if it was not."""
        pending = self.pending.pop(request, None)
        if pending is not None:
            self.rows -= pending.rows
        return pending

    @property
    def suspect(self) -> Pending | None:
        return next((each for each in self.pending.values() if each.is_suspect), None)
