"""What the front ends have answered, by model and version: counted here, and told in Triton's form."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ranksmith.serve.frontend.counts import Counts, Histogram
from ranksmith.serve.frontend.metrics import metrics_text
from ranksmith.serve.frontend.pool import RefusedError, Reply
from ranksmith.serve.frontend.shared import SharedCounts
from ranksmith.serve.messages import Routing

__all__ = ["Statistics"]


@dataclass(eq=False)
class Statistics:
    """Counts what this front end answers, and tells of all of them.

    Attributes:
        routing: what the supervisor said last.
    """

    counts: SharedCounts = field(default_factory=SharedCounts)
    routing: Routing = field(default_factory=lambda: Routing(workers=[], active={}))

    async def counted(self, name: str, generation: int, rows: int, answering: Awaitable[Reply]) -> Reply:
        """The reply; counted.

        Args:
            generation: that a request counts for until it is answered.

        Raises:
            RefusedError: as `answering` does; that is counted too.
        """
        start = time.perf_counter()
        counts = self.counts.own(name, generation)
        counts.begun()
        try:
            reply = await answering
        except RefusedError as error:
            counts.failed(error.status, time.perf_counter() - start)
            raise
        finally:
            counts.ended()
        if reply.generation != generation:
            counts = self.counts.own(name, reply.generation)
        counts.answered(rows, reply.answer, time.perf_counter() - start)
        return reply

    def metrics(self) -> bytes:
        return metrics_text(self.counts.all(), self.routing)

    def model_stats(self, versions: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
        """Triton's `model_stats` of these models and generations."""
        known = self.counts.all()
        return [_model_stats(name, number, known.get((name, number)) or Counts()) for name, number in versions]


def _model_stats(name: str, generation: int, counts: Counts) -> dict[str, Any]:
    """What is not measured here has a count of 0; what a batch took counts for every request in it."""
    nothing = _total(0, 0.0)
    return {
        "name": name,
        "version": str(generation),
        "last_inference": round(1e3 * counts.last_s),
        "inference_count": counts.rows,
        "execution_count": counts.batches,
        "inference_stats": {
            "success": _of(counts.request),
            "fail": _total(sum(counts.failures.values()), counts.failed_s),
            "queue": _of(counts.queue),
            "compute_input": _of(counts.decode),
            "compute_infer": _of(counts.compute),
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
    }


def _of(histogram: Histogram) -> dict[str, int]:
    return _total(histogram.count, histogram.total)


def _total(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(1e9 * seconds)}
