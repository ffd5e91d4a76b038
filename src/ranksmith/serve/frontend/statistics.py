"""What the front ends have answered, by model and version: counted here, and told in Triton's form."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from ranksmith.serve.frontend.counts import Counts, Histogram
from ranksmith.serve.frontend.metrics import metrics_text
from ranksmith.serve.frontend.reply import RefusedError, Reply
from ranksmith.serve.frontend.shared import SharedCounts
from ranksmith.serve.messages import Routing
from ranksmith.serve.oip.extensions import InferStatistics, ModelStatistics, StatisticDuration

__all__ = ["Counting", "Statistics"]


@dataclass(eq=False)
class Statistics:
    """Counts what this front end answers, and tells of all of them.

    Attributes:
        routing: what the supervisor said last.
    """

    counts: SharedCounts = field(default_factory=SharedCounts)
    routing: Routing = field(default_factory=lambda: Routing(workers=[], active={}))

    def begin(self, name: str, generation: int, rows: int) -> Counting:
        """Count a request, for this generation until it is answered."""
        counts = self.counts.own(name, generation)
        counts.begun()
        return Counting(self.counts, name, generation, rows, counts, time.perf_counter())

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

    def metrics(self) -> bytes:
        return metrics_text(self.counts.all(), self.routing)

    def model_stats(self, versions: Iterable[tuple[str, int]]) -> list[ModelStatistics]:
        """Triton's `model_stats` of these models and generations."""
        known = self.counts.all()
        return [_model_stats(name, number, known.get((name, number)) or Counts()) for name, number in versions]


@dataclass(slots=True)
class Counting:
    """One request that is being answered."""

    shared: SharedCounts
    name: str
    generation: int
    rows: int
    counts: Counts
    start_s: float

    def answered(self, reply: Reply) -> None:
        counts = self.counts if reply.generation == self.generation else self.shared.own(self.name, reply.generation)
        counts.answered(self.rows, reply.answer, time.perf_counter() - self.start_s)

    def failed(self, error: RefusedError) -> None:
        self.counts.failed(error.status, time.perf_counter() - self.start_s)

    def ended(self) -> None:
        """However it ended."""
        self.counts.ended()


def _model_stats(name: str, generation: int, counts: Counts) -> ModelStatistics:
    """What is not measured here has a count of 0; what a batch took counts for every request in it."""
    nothing = _total(0, 0.0)
    return ModelStatistics(
        name=name,
        version=str(generation),
        last_inference=round(1e3 * counts.last_s),
        inference_count=counts.rows,
        execution_count=counts.batches,
        inference_stats=InferStatistics(
            success=_of(counts.request),
            fail=_total(sum(counts.failures.values()), counts.failed_s),
            queue=_of(counts.queue),
            compute_input=_of(counts.decode),
            compute_infer=_of(counts.compute),
            compute_output=nothing,
            cache_hit=nothing,
            cache_miss=nothing,
        ),
        batch_stats=[],
    )


def _of(histogram: Histogram) -> StatisticDuration:
    return _total(histogram.count, histogram.total)


def _total(count: int, seconds: float) -> StatisticDuration:
    return StatisticDuration(count, round(1e9 * seconds))
