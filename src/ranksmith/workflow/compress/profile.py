"""Milliseconds of each original Conv inside a whole model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ranksmith.measure.latency import random_feeds
from ranksmith.runtime.machine import fingerprint, machine
from ranksmith.runtime.profile import interleaved_node_times
from ranksmith.runtime.session import open_session
from ranksmith.workflow.cache import key_of
from ranksmith.workflow.compress.job import Job, Prepared

__all__ = ["layer_times"]

_RUNS = 21


def layer_times(job: Job, prepared: Prepared, *models: bytes) -> list[dict[str, float]]:
    """Time of each original Conv in each of `models`: its own, or the sum of the chain that replaced it.

    The models run in turn, so their times can be compared. Empty where the provider cannot tell: only
    onnxruntime's CPU profile names the nodes. Cached with the machine, so that a second run decides as the first.
    """
    if job.options.provider != "cpu":
        return [{} for _ in models]
    threads, batch = job.options.threads, job.options.batches[0]
    key = key_of(
        "profile",
        machine=fingerprint(machine(), job.options.provider, threads),
        batch=batch,
        models=[hashlib.sha256(model).hexdigest() for model in models],
    )
    found = job.cache.json(key)
    if found is None:
        feeds = random_feeds(open_session(models[0], threads=threads), batch, job.options.seed)
        found = interleaved_node_times(models, feeds, threads=threads, runs=_RUNS)
        job.cache.put_json(key, found)
    return [_by_conv(prepared, times) for times in found]


def _by_conv(prepared: Prepared, times: Mapping[str, float]) -> dict[str, float]:
    known = {info.node for info in prepared.infos}
    summed: dict[str, float] = {}
    for name, ms in times.items():
        node = name if name in known else name.rpartition("/")[0]
        if node in known:
            summed[node] = summed.get(node, 0.0) + ms
    return summed
