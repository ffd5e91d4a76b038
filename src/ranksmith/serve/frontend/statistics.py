"""What the front ends have answered, by model and version: told in Triton's form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ranksmith.serve.frontend.counts import Counts, Histogram
from ranksmith.serve.frontend.metrics import metrics_text
from ranksmith.serve.frontend.shared import SharedCounts
from ranksmith.serve.messages import Routing
from ranksmith.serve.oip.extensions import InferStatistics, ModelStatistics, StatisticDuration

__all__ = ["Statistics"]


@dataclass(eq=False)
class Statistics:
    """Tells of all front ends.

    Attributes:
        counts: of this one, and through them those of all.
        routing: what the supervisor said last.
    """

    counts: SharedCounts
    routing: Routing = field(default_factory=lambda: Routing(workers=[], active={}))

    def metrics(self) -> bytes:
        return metrics_text(self.counts.all(), self.routing)

    def model_stats(self, versions: Iterable[tuple[str, int]]) -> list[ModelStatistics]:
        """Triton's `model_stats` of these models and generations."""
        known = self.counts.all()
        return [_model_stats(name, number, known.get((name, number)) or Counts()) for name, number in versions]


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
