"""Each candidate's options: aligned ranks that are cheaper, timed in context, those that do not pay left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.cost import skeleton
from ranksmith.lowrank.factor import kind_named
from ranksmith.runtime.machine import channel_block
from ranksmith.search.allocate import drop_unpaying
from ranksmith.search.candidates import Layer, Option, candidate_options
from ranksmith.workflow.cache import key_of
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.timing import time_chains
from ranksmith.workflow.statistics import Need, Statistics, gather

__all__ = ["Considered", "consider", "gather_cached"]

# An option must save more than this fraction of its layer's time; below it lies the noise of the table.
_LEAST_GAIN = 0.03
# Options of one layer that are timed.
_MOST_OPTIONS = 12


@dataclass(frozen=True)
class Considered:
    """What the search sees of one candidate.

    Attributes:
        options: aligned ranks with fewer multiply-adds than the Conv, timed where that is possible.
        paying: those of them that save time; all of them where time is not what is saved.
    """

    options: list[Option]
    paying: list[Option]


def gather_cached(job: Job, prepared: Prepared) -> Statistics:
    """Statistics of every candidate over the calibration images; output covariances come from the cache."""
    needs: dict[str, list[Need]] = {}
    wanted = {kind_named(kind).needs for kind in job.options.kinds} | {"output"}
    for node in prepared.candidates:
        needs[node] = [need for need in ("output", "input") if need in wanted]
    key = key_of(
        "statistics",
        source=prepared.source_sha256,
        calibration=prepared.calibration_sha256,
        preprocess=str(job.preprocess),
        needs=needs,
    )
    cached = job.cache.arrays(key)
    if cached is not None:
        statistics = Statistics.from_arrays(prepared.layers, cached)
        prepared.calibration.recall_skipped(statistics.skipped, job.progress.warn)
        return statistics
    statistics = gather(
        prepared.folded,
        needs,
        dataset=prepared.calibration.dataset,
        indices=prepared.calibration.indices,
        preprocess=job.preprocess,
        threads=job.options.threads,
        batch=prepared.calibration.batch,
        progress=job.progress,
        title="Spectra",
    )
    prepared.calibration.skipped.extend(statistics.skipped)
    job.cache.put_arrays(key, statistics.to_arrays())
    return statistics


def consider(
    job: Job, prepared: Prepared, statistics: Statistics, dense_ms: Mapping[str, float]
) -> dict[str, Considered]:
    """List, time and filter the options of every candidate whose image size is known.

    Args:
        dense_ms: time of each Conv in the whole folded model. The paired ratios measured in context are applied to
            it, so that an option's milliseconds are on the whole model's scale; where it is empty, the context's
            own times stand.
    """
    options: dict[str, list[Option]] = {}
    block = channel_block(job.options.provider)
    for node in prepared.candidates:
        size = prepared.contexts[node].input_hw
        if size is None:
            continue
        layer = Layer(
            node=node,
            layer=prepared.layers[node],
            input_hw=size,
            energy=statistics.energy(node, prepared.layers[node].group),
            error=partial(_predicted_error, statistics, node, prepared.layers[node]),
        )
        options[node] = _thinned(candidate_options(layer, block=block, kinds=job.options.kinds))
    timed = _timed(job, prepared, options, dense_ms)
    if job.options.objective == "latency":
        paying, _ = drop_unpaying(timed, _LEAST_GAIN)
    else:
        paying = timed
    return {node: Considered(timed[node], paying[node]) for node in timed}


def _thinned(options: list[Option]) -> list[Option]:
    """At most `_MOST_OPTIONS`, evenly spaced from the cheapest to the mildest: wide layers have dozens of ranks."""
    if len(options) <= _MOST_OPTIONS:
        return options
    return [options[index] for index in np.linspace(0, len(options) - 1, _MOST_OPTIONS).round().astype(int)]


def _timed(
    job: Job, prepared: Prepared, options: Mapping[str, list[Option]], dense_ms: Mapping[str, float]
) -> dict[str, list[Option]]:
    chains = {
        node: {_name(option): skeleton(prepared.layers[node], option.kind, option.rank) for option in listed}
        for node, listed in options.items()
    }
    timings = time_chains(job, prepared.layers, prepared.contexts, chains)

    def timed(option: Option) -> Option:
        timing = timings[option.node][_name(option)]
        dense = dense_ms.get(option.node, timing.dense_ms)
        return option.timed(dense / timing.ratio, dense)

    return {node: [timed(option) for option in listed] for node, listed in options.items()}


def _predicted_error(statistics: Statistics, node: str, layer: ConvLayer, kind: str, rank: int) -> float:
    return statistics.factorizer(node, kind, layer).error(rank)


def _name(option: Option) -> str:
    return f"{option.kind}:{option.rank}"
