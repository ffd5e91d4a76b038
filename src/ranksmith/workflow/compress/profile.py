"""Milliseconds of each original Conv inside a whole model."""

from __future__ import annotations

from collections.abc import Mapping

from ranksmith.measure.latency import random_feeds
from ranksmith.runtime.profile import interleaved_node_times
from ranksmith.runtime.session import open_session
from ranksmith.workflow.compress.job import Job, Prepared

__all__ = ["layer_times"]

_RUNS = 21


def layer_times(job: Job, prepared: Prepared, *models: bytes) -> list[dict[str, float]]:
    """Time of each original Conv in each of `models`: its own, or the sum of the chain that replaced it.

    The models run in turn, so their times can be compared. Empty where the provider cannot tell: only
    onnxruntime's CPU profile names the nodes.
    """
    if job.options.provider != "cpu":
        return [{} for _ in models]
    threads = job.options.threads
    feeds = random_feeds(open_session(models[0], threads=threads), job.options.batches[0], job.options.seed)
    return [_by_conv(prepared, times) for times in interleaved_node_times(models, feeds, threads=threads, runs=_RUNS)]


def _by_conv(prepared: Prepared, times: Mapping[str, float]) -> dict[str, float]:
    known = {info.node for info in prepared.infos}
    summed: dict[str, float] = {}
    for name, ms in times.items():
        node = name if name in known else name.rpartition("/")[0]
        if node in known:
            summed[node] = summed.get(node, 0.0) + ms
    return summed
