"""Milliseconds of each original Conv inside a whole model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ranksmith.measure.latency import paired_latency, random_feeds
from ranksmith.runtime.machine import fingerprint, machine
from ranksmith.runtime.profile import interleaved_node_times
from ranksmith.runtime.session import open_session
from ranksmith.workflow.cache import key_of
from ranksmith.workflow.compress.job import Job, Prepared

__all__ = ["LayerTimes", "layer_times"]

_BUDGET_MS, _FEWEST_RUNS, _MOST_RUNS = 600.0, 21, 300


@dataclass(frozen=True)
class LayerTimes:
    """Where the time of a whole model goes.

    Attributes:
        conv_ms: of each original Conv: its own, or the sum of the chain that replaced it.
        rest_ms: of everything else; conversions between int8 and float are there.
    """

    conv_ms: dict[str, float] = field(default_factory=dict)
    rest_ms: float = 0.0


def layer_times(job: Job, prepared: Prepared, *models: bytes) -> list[LayerTimes]:
    """Where the time goes in each of `models`.

    The models run in turn, so their times can be compared. Empty where the provider cannot tell: only
    onnxruntime's CPU profile names the nodes. Cached with the machine, so that a second run decides as the first.
    """
    if job.options.provider != "cpu":
        return [LayerTimes() for _ in models]
    threads, batch = job.options.threads, job.options.batches[0]
    key = key_of(
        "profile",
        machine=fingerprint(machine(), job.options.provider, threads),
        batch=batch,
        models=[hashlib.sha256(model).hexdigest() for model in models],
    )
    found = job.cache.json(key)
    if found is None:
        session = open_session(models[0], threads=threads)
        feeds = random_feeds(session, batch, job.options.seed)
        # The nodes of a small model take microseconds, so it takes many runs to tell them apart.
        run_ms = float(paired_latency([lambda: session.run(feeds)], pairs=3, seed=job.options.seed).min())
        runs = int(np.clip(_BUDGET_MS / run_ms, _FEWEST_RUNS, _MOST_RUNS))
        found = interleaved_node_times(models, feeds, threads=threads, runs=runs)
        job.cache.put_json(key, found)
    return [_by_conv(prepared, times) for times in found]


def _by_conv(prepared: Prepared, times: Mapping[str, float]) -> LayerTimes:
    known = {info.node for info in prepared.infos}
    convs: dict[str, float] = {}
    for name, ms in times.items():
        node = name if name in known else name.rpartition("/")[0]
        if node in known:
            convs[node] = convs.get(node, 0.0) + ms
    return LayerTimes(convs, sum(times.values()) - sum(convs.values()))
