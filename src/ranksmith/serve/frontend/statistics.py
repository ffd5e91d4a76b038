"""What one front end has answered, by model and version.

Every front end counts for itself: with several of them, each tells of its own share only.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

from ranksmith.serve.frontend.metrics import Metrics
from ranksmith.serve.frontend.pool import RefusedError, Reply
from ranksmith.serve.oip.extensions import InferStatistics, ModelStatistics, StatisticDuration

__all__ = ["Counts", "Statistics", "Total"]


@dataclass(eq=False)
class Total:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: float) -> None:
        self.count += 1
        self.ns += round(ns)

    @property
    def duration(self) -> StatisticDuration:
        """As it is now."""
        return StatisticDuration(self.count, self.ns)


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

    def as_triton(self, name: str, version: str) -> ModelStatistics:
        """One entry of Triton's `model_stats`. What is not measured here has a count of 0."""
        unknown = StatisticDuration(0, 0)
        return ModelStatistics(
            name=name,
            version=version,
            last_inference=round(1e3 * self.last_s),
            inference_count=self.rows,
            execution_count=round(self.batches),
            inference_stats=InferStatistics(
                success=self.success.duration,
                fail=self.fail.duration,
                queue=self.queue.duration,
                compute_input=unknown,
                compute_infer=self.compute.duration,
                compute_output=unknown,
                cache_hit=unknown,
                cache_miss=unknown,
            ),
            batch_stats=[],
        )


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

    async def counted(self, name: str, generation: int, rows: int, answering: Awaitable[Reply]) -> Reply:
        """The reply; counted.

        Args:
            generation: that a request counts for if it fails.

        Raises:
            RefusedError: as `answering` does; that is counted too.
        """
        start = time.perf_counter_ns()
        self.metrics.begun()
        try:
            reply = await answering
        except RefusedError as error:
            self.of(name, generation).fail.add(time.perf_counter_ns() - start)
            self.metrics.failed(name, generation, error.status)
            raise
        finally:
            self.metrics.ended()
        self.metrics.answered(name, rows, reply, 1e-9 * (time.perf_counter_ns() - start))
        counts = self.of(name, reply.generation)
        counts.success.add(time.perf_counter_ns() - start)
        counts.queue.add(1e6 * reply.answer.queue_ms)
        counts.compute.add(1e6 * reply.answer.compute_ms)
        counts.rows += rows
        counts.batches += rows / max(rows, reply.answer.rows)
        counts.last_s = time.time()
        return reply
