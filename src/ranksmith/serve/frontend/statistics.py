"""What one front end has answered, by model and version.

Every front end counts for itself: with several of them, each tells of its own share only.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ranksmith.serve.frontend.metrics import Metrics
from ranksmith.serve.frontend.pool import RefusedError, Reply

__all__ = ["Counting", "Counts", "Statistics", "Total"]


@dataclass(eq=False)
class Total:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: float) -> None:
        self.count += 1
        self.ns += round(ns)


@dataclass(eq=False)
class Counts:
    """Of one version of a model.

    Attributes:
        success, fail: requests, from being handed to the pool to being answered.
        queue, compute: of those that were answered; a batch's compute time counts for every request in it.
        rows: of those that were answered.
        batches: each request adds the share of its batch that it was. That adds up to the number of batches where all
            their requests came through this front end, and to its share of them where there are more.
        last_s: when the last one was answered, since the epoch.
    """

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    compute: Total = field(default_factory=Total)
    rows: int = 0
    batches: float = 0.0
    last_s: float = 0.0

    def as_triton(self, name: str, version: str) -> dict[str, Any]:
        """One entry of Triton's `model_stats`. What is not measured here has a count of 0."""
        return {
            "name": name,
            "version": version,
            "last_inference": round(1e3 * self.last_s),
            "inference_count": self.rows,
            "execution_count": round(self.batches),
            "inference_stats": {
                "success": self.success,
                "fail": self.fail,
                "queue": self.queue,
                "compute_input": Total(),
                "compute_infer": self.compute,
                "compute_output": Total(),
                "cache_hit": Total(),
                "cache_miss": Total(),
            },
            "batch_stats": [],
        }


@dataclass(eq=False)
class Statistics:
    """The counts of all models of one front end.

    Attributes:
        metrics: are told the same.
    """

    metrics: Metrics = field(default_factory=Metrics)
    _counts: dict[tuple[str, int], Counts] = field(default_factory=dict)

    def of(self, name: str, generation: int) -> Counts:
        return self._counts.setdefault((name, generation), Counts())

    def begin(self, name: str, generation: int, rows: int) -> Counting:
        """Count a request, which goes to this generation if it fails."""
        self.metrics.begun()
        return Counting(self, name, generation, rows, time.perf_counter_ns())

    async def counted(self, name: str, generation: int, rows: int, submit: Callable[[], Awaitable[Reply]]) -> Reply:
        """The reply; counted.

        Raises:
            RefusedError: as `submit` does, or what it returns; that is counted too.
        """
        counting = self.begin(name, generation, rows)
        try:
            reply = await submit()
        except RefusedError as error:
            counting.failed(error)
            raise
        finally:
            counting.ended()
        counting.answered(reply)
        return reply


@dataclass(slots=True)
class Counting:
    """One request that is being answered."""

    statistics: Statistics
    name: str
    generation: int
    rows: int
    start_ns: int

    def answered(self, reply: Reply) -> None:
        took_ns = time.perf_counter_ns() - self.start_ns
        self.statistics.metrics.answered(self.name, self.rows, reply, 1e-9 * took_ns)
        counts = self.statistics.of(self.name, reply.generation)
        counts.success.add(took_ns)
        counts.queue.add(1e6 * reply.answer.queue_ms)
        counts.compute.add(1e6 * reply.answer.compute_ms)
        counts.rows += self.rows
        counts.batches += self.rows / max(self.rows, reply.answer.rows)
        counts.last_s = time.time()

    def failed(self, error: RefusedError) -> None:
        self.statistics.of(self.name, self.generation).fail.add(time.perf_counter_ns() - self.start_ns)
        self.statistics.metrics.failed(self.name, self.generation, error.status)

    def ended(self) -> None:
        """It is not being answered any more, however it ended."""
        self.statistics.metrics.ended()
