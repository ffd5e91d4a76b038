"""Set the families up: times from the latency table, damages from the model's answers, ranges for int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ranksmith.errors import ModelError
from ranksmith.graph.query import conv_context, conv_layer
from ranksmith.measure.accuracy import class_output
from ranksmith.measure.latency import paired_latency, random_feeds
from ranksmith.runtime.quantize import Range, quantizable_values, quantize
from ranksmith.runtime.session import default_threads, open_session
from ranksmith.search.candidates import Option, near_pareto
from ranksmith.search.damage import DamageCurve
from ranksmith.workflow.build import Builder
from ranksmith.workflow.compress.consider import Options, list_options, milliseconds, time_options
from ranksmith.workflow.compress.family import Family
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.profile import layer_times
from ranksmith.workflow.compress.sensitivity import Damages, measure_damages
from ranksmith.workflow.compress.statistics import statistics_key
from ranksmith.workflow.quantize import best_ranges
from ranksmith.workflow.statistics import Statistics

__all__ = ["Families", "set_up"]

# Options that are slower than this in float, at the same error, are not timed in int8.
_MARGIN = 0.15

# Images that the methods of finding ranges are compared on: all see the same, so few tell them apart.
_RANGE_IMAGES = 64

_UNTIMED = ("kept-dynamic-weight", "kept-not-2d", "kept-unknown-shape")


@dataclass(frozen=True)
class Families:
    """What the search chooses from.

    Attributes:
        low_rank: plans in float.
        int8: plans in int8; None where they are not wanted or the model cannot be quantized.
        curves: damage against error by layer.
        output: the model's class output.
        notes: what was found out on the way.
    """

    low_rank: Family
    int8: Family | None
    curves: dict[str, DamageCurve]
    output: str
    notes: list[str]


def set_up(job: Job, prepared: Prepared, statistics: Statistics, builder: Builder) -> Families:
    """Time and rate every option of every layer.

    Raises:
        ModelError: int8 was asked for and the model cannot be quantized.
    """
    notes: list[str] = []
    output = class_output(open_session(prepared.folded_bytes, threads=default_threads()))
    with job.clock.stage("errors"):
        listed = list_options(job, prepared, statistics, builder)
    with job.clock.stage("latency table"):
        dense_ms = layer_times(job, prepared, prepared.folded_bytes)[0].conv_ms
        timed = time_options(job, prepared, listed, dense_ms, "fp32")
    wants_int8 = _wants_int8(job, prepared, notes)
    with job.clock.stage("sensitivity"):
        in_int8 = [*listed, *_others(prepared, listed)] if wants_int8 else []
        damages = measure_damages(job, prepared, builder, listed, output, in_int8)
    low_rank = Family("fp32", prepared.folded_bytes, _model_ms(job, prepared.folded_bytes), dense_ms, timed)
    low_rank.with_damages(damages.curves, {})
    int8 = _int8(job, prepared, builder, low_rank, listed, damages, notes) if wants_int8 else None
    return Families(low_rank, int8, damages.curves, output, notes)


def _wants_int8(job: Job, prepared: Prepared, notes: list[str]) -> bool:
    # Multiply-adds do not depend on the precision, so there is nothing to gain by it.
    if job.options.precision == "fp32" or job.options.objective == "macs":
        return False
    try:
        quantizable_values(prepared.folded_bytes)
    except ModelError as error:
        if job.options.precision == "int8":
            raise
        notes.append(f"int8 was left out: {error.message}")
        job.progress.note(notes[-1])
        return False
    return True


def _int8(
    job: Job,
    prepared: Prepared,
    builder: Builder,
    low_rank: Family,
    listed: Options,
    damages: Damages,
    notes: list[str],
) -> Family:
    with job.clock.stage("int8"):
        method, ranges, table = _ranges(job, prepared, builder)
        notes.append(
            f"int8 ranges by {method}; mean KL on calibration images: "
            + ", ".join(f"{name} {kl:.4f}" for name, kl in table)
        )
        base = quantize(prepared.folded_bytes, ranges)
        others = _others(prepared, listed)
        everything = replace(
            prepared,
            layers=prepared.layers | {node: conv_layer(prepared.folded, node) for node in others},
            contexts=prepared.contexts | {node: conv_context(prepared.folded, node) for node in others},
        )
        dense_ms = layer_times(job, prepared, base)[0].conv_ms
        options = {**_worth_timing(job, prepared, low_rank.options), **{node: [] for node in others}}
        timed = time_options(job, everything, options, dense_ms, "int8", low_rank.dense_ms)
    family = Family("int8", base, _model_ms(job, base), dense_ms, timed, ranges=method)
    family.with_damages(damages.curves, damages.in_int8)
    return family


def _worth_timing(job: Job, prepared: Prepared, in_float: Options) -> Options:
    """The options that could be the best in int8, by their times in float: timing is most of what a machine costs.

    Layers of one geometry share their times, so what one of them needs all keep.
    """
    if job.options.objective != "latency":
        return in_float
    alike = {node: _geometry(prepared, node) for node in in_float}
    names: dict[object, set[str]] = {}
    for node, options in in_float.items():
        worth = near_pareto(options, milliseconds, _MARGIN)
        names.setdefault(alike[node], set()).update(option.name for option in worth)
    return {
        node: [option for option in options if option.name in names[alike[node]]] for node, options in in_float.items()
    }


def _geometry(prepared: Prepared, node: str) -> object:
    layer, context = prepared.layers[node], prepared.contexts[node]
    return layer.weight.shape, layer.strides, layer.group, context.input_hw, context.followers


def _others(prepared: Prepared, listed: Mapping[str, list[Option]]) -> list[str]:
    """Convs that are not decomposed but can be timed: the stem, depthwise ones, small ones."""
    return [
        info.node
        for info in prepared.infos
        if info.node not in listed
        and info.reason not in _UNTIMED
        and conv_context(prepared.folded, info.node).input_hw is not None
    ]


def _ranges(job: Job, prepared: Prepared, builder: Builder) -> tuple[str, dict[str, Range], list[tuple[str, float]]]:
    """The method whose int8 model answers most like the original, its ranges, and all methods' divergences."""
    key = statistics_key(job, prepared, "int8-ranges")
    found = job.cache.json(key)
    if found is None:
        with job.progress.stage("Finding the ranges of activations"):
            histograms = builder.histograms()
        images = prepared.calibration.first(_RANGE_IMAGES)
        best = best_ranges(prepared.folded_bytes, histograms, images, threads=default_threads(), progress=job.progress)
        found = [best.method, best.ranges, [(entry.method, entry.kl) for entry in best.table]]
        job.cache.put_json(key, found)
    method, ranges, table = found
    return method, {name: (low, high) for name, (low, high) in ranges.items()}, [(name, kl) for name, kl in table]


def _model_ms(job: Job, model: bytes) -> float:
    """Latency at the first batch size, for predicting that of plans."""
    session = open_session(model, provider=job.options.provider, threads=job.options.threads)
    feeds = random_feeds(session, job.options.batches[0], job.options.seed)
    return float(np.median(paired_latency([lambda: session.run(feeds)], pairs=7, seed=job.options.seed)))
