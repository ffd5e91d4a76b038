"""What Prometheus is told: counts and durations of all front ends together.

Each front end keeps its own in files of a directory that the supervisor made (prometheus-client's multiprocess mode),
and whichever of them is asked adds them all up.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from ranksmith import config
from ranksmith.serve.frontend.pool import Reply

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LABELS = ("model", "version")


class Metrics:
    """The metrics of one front end."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._success = Counter("ranksmith_requests", "Requests that were answered.", _LABELS, registry=own)
        self._rows = Counter("ranksmith_rows", "Rows of requests that were answered.", _LABELS, registry=own)
        self._refused = Counter(
            "ranksmith_failures", "Requests that were not, by HTTP status.", (*_LABELS, "status"), registry=own
        )
        self._in_flight = Gauge(
            "ranksmith_in_flight", "Requests being answered.", registry=own, multiprocess_mode="livesum"
        )
        self._total, self._queue, self._compute = (
            Histogram(f"ranksmith_{name}_seconds", text, _LABELS, buckets=_SECONDS, registry=own)
            for name, text in (
                ("request", "From being handed to a worker to the answer."),
                ("queue", "Waiting in the worker, image decoding included."),
                ("compute", "In the session, of the batch that the request was in."),
            )
        )
        self._batch = Histogram(
            "ranksmith_batch_rows", "Rows of the batch a request was in.", _LABELS, buckets=_ROWS, registry=own
        )

    def begun(self) -> None:
        self._in_flight.inc()

    def ended(self) -> None:
        self._in_flight.dec()

    def answered(self, name: str, rows: int, reply: Reply, seconds: float) -> None:
        labels = (name, str(reply.generation))
        self._success.labels(*labels).inc()
        self._rows.labels(*labels).inc(rows)
        self._total.labels(*labels).observe(seconds)
        self._queue.labels(*labels).observe(reply.answer.queue_ms / 1e3)
        self._compute.labels(*labels).observe(reply.answer.compute_ms / 1e3)
        self._batch.labels(*labels).observe(reply.answer.rows)

    def failed(self, name: str, generation: int, status: int) -> None:
        self._refused.labels(name, str(generation), str(status)).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        registry = self._registry
        if config.metrics_are_shared():
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
