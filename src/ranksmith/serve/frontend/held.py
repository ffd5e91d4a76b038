"""Requests that are held until they are answered, and the workers that have them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from ranksmith.serve.frames import Kind, Tensor
from ranksmith.serve.frontend.reply import RefusedError, Reply
from ranksmith.serve.frontend.returning import Client
from ranksmith.serve.messages import Ask, WorkerAt
from ranksmith.serve.transport import Link

__all__ = ["Outcome", "Pending", "Worker"]

_DEATHS_SUSPECT = 2

Outcome = Reply | RefusedError


@dataclass(eq=False, slots=True)
class Pending:
    """A request.

    Attributes:
        number: unique in this front end.
        model: name and generation.
        over: is given its outcome, unless it is cancelled before.
        alike: what it has in common with those that may share a frame with it: names, datatypes and shapes of its
            tensors, and what is asked of them; None: it shares none.
        since_s: when it was admitted, on CLOCK_MONOTONIC.
        alone_s: see `Pace.alone_s`; 0: nothing was expected.
        client: who asks, where it is known to wait for the answer before it asks again.
        worker: that has it; None: it waits for one.
        deaths: of workers that had it.
    """

    number: int
    model: tuple[str, int]
    kind: Kind
    tensors: tuple[Tensor, ...]
    ask: Ask
    rows: int
    deadline_s: float
    over: Callable[[Outcome], None]
    alike: Hashable
    since_s: float
    alone_s: float
    client: Client | None = None
    worker: Worker | None = None
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
        pending.worker = self
        self.pending[pending.number] = pending
        self.rows += pending.rows

    def give_back(self, number: int) -> Pending | None:
        """The request, which is not in flight here any more; None if it was not."""
        pending = self.pending.pop(number, None)
        if pending is not None:
            pending.worker = None
            self.rows -= pending.rows
        return pending

    @property
    def suspect(self) -> Pending | None:
        return next((each for each in self.pending.values() if each.is_suspect), None)
