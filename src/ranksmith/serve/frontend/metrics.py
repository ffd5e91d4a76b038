"""What Prometheus is told: counts and durations of all front ends together, and what the supervisor knows.

The `nv_inference_*` ones are named and labelled as Triton's, for dashboards that were made for it:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from ranksmith.serve.frontend.counts import Counts, Histogram
from ranksmith.serve.messages import Routing

__all__ = ["CONTENT_TYPE", "metrics_text"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

ByVersion = Mapping[tuple[str, int], Counts]

_LABELS = ("model", "version")
_HISTOGRAMS: tuple[tuple[str, str, Callable[[Counts], Histogram]], ...] = (
    ("request_seconds", "From being handed to a worker to the answer.", lambda counts: counts.request),
    ("queue_seconds", "Waiting in the worker for the session.", lambda counts: counts.queue),
    ("decode_seconds", "In the worker, until an image is decoded and prepared.", lambda counts: counts.decode),
    ("compute_seconds", "In the session, of the batch that a request was in.", lambda counts: counts.compute),
    ("batch_rows", "Rows of the batch that a request was in.", lambda counts: counts.batch),
)
_TRITON: tuple[tuple[str, str, Callable[[Counts], float]], ...] = (
    ("request_success", "Requests that were answered.", lambda counts: counts.request.count),
    ("request_failure", "Requests that failed.", lambda counts: sum(counts.failures.values())),
    ("count", "Rows of requests that were answered.", lambda counts: counts.rows),
    ("exec_count", "Batches that ran.", lambda counts: counts.batches),
    ("request_duration_us", "Of requests that were answered.", lambda counts: 1e6 * counts.request.total),
    ("queue_duration_us", "Waiting for the session.", lambda counts: 1e6 * counts.queue.total),
    ("compute_input_duration_us", "Decoding and preparing images.", lambda counts: 1e6 * counts.decode.total),
    ("compute_infer_duration_us", "In the session.", lambda counts: 1e6 * counts.compute.total),
)


def metrics_text(counts: ByVersion, routing: Routing) -> bytes:
    """In Prometheus' text format.

    Args:
        counts: by model and generation.
        routing: what the supervisor said last.
    """
    registry = CollectorRegistry()
    registry.register(_Metrics(counts, routing))
    return generate_latest(registry)


class _Metrics(Collector):
    def __init__(self, counts: ByVersion, routing: Routing) -> None:
        self._counts = [((name, str(generation)), each) for (name, generation), each in counts.items()]
        self._routing = routing

    def collect(self) -> Iterable[Metric]:
        yield from self._own()
        yield from self._supervised()
        yield from self._triton()

    def _own(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("ranksmith_requests", "Requests that were answered.", labels=_LABELS)
        rows = CounterMetricFamily("ranksmith_rows", "Rows of requests that were answered.", labels=_LABELS)
        failures = CounterMetricFamily(
            "ranksmith_failures", "Requests that were not, by HTTP status.", labels=(*_LABELS, "status")
        )
        in_flight = GaugeMetricFamily("ranksmith_in_flight", "Requests being answered.", labels=_LABELS)
        for labels, counts in self._counts:
            requests.add_metric(labels, counts.request.count)
            rows.add_metric(labels, counts.rows)
            in_flight.add_metric(labels, counts.in_flight)
            for status, count in counts.failures.items():
                failures.add_metric((*labels, str(status)), count)
        yield from (requests, rows, failures, in_flight)
        for name, text, histogram in _HISTOGRAMS:
            family = HistogramMetricFamily(f"ranksmith_{name}", text, labels=_LABELS)
            for labels, counts in self._counts:
                found = histogram(counts)
                buckets = [(_told(bound), count) for bound, count in found.cumulated]
                family.add_metric(labels, buckets, found.total)
            yield family

    def _supervised(self) -> Iterator[Metric]:
        generation = GaugeMetricFamily("ranksmith_generation", "Gets new requests.", labels=("model",))
        restarts = CounterMetricFamily("ranksmith_restarts", "Workers started again.", labels=("model",))
        swaps = CounterMetricFamily("ranksmith_swaps", "Swaps, by how they ended.", labels=("model", "outcome"))
        for name, number in sorted(self._routing.active.items()):
            generation.add_metric((name,), number)
            restarts.add_metric((name,), self._routing.restarts.get(name, 0))
            for outcome, count in self._routing.swaps.get(name, {}).items():
                swaps.add_metric((name, outcome), count)
        yield from (generation, restarts, swaps)

    def _triton(self) -> Iterator[Metric]:
        for name, text, value in _TRITON:
            # As a counter it would be given the suffix _total, which Triton's have not.
            family = UnknownMetricFamily(f"nv_inference_{name}", text, labels=_LABELS)
            for labels, counts in self._counts:
                family.add_metric(labels, value(counts))
            yield family
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests being answered.", labels=_LABELS)
        for labels, counts in self._counts:
            pending.add_metric(labels, counts.in_flight)
        yield pending


def _told(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else str(float(bound))
