"""Each layer's options, in float and in int8: listed, timed in context, and compared by time and damage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.cost import skeleton
from ranksmith.results import Precision
from ranksmith.runtime.machine import channel_block
from ranksmith.search.allocate import drop_unpaying
from ranksmith.search.candidates import Layer, Option, candidate_options, pareto
from ranksmith.workflow.build import Builder
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.sensitivity import tried_options
from ranksmith.workflow.compress.statistics import statistics_key
from ranksmith.workflow.compress.timing import FLOAT, time_chains
from ranksmith.workflow.statistics import Need, Statistics, needs_of

__all__ = ["list_options", "milliseconds", "paying", "time_options"]

# An option must save more than this fraction of its layer's time; below it lies the noise of the table.
_LEAST_GAIN = 0.03

Options = dict[str, list[Option]]


def list_options(job: Job, prepared: Prepared, statistics: Statistics, builder: Builder) -> Options:
    """The options of every candidate whose image size is known, with their predicted errors, not timed yet.

    Factors that the sensitivities are measured with, or that may end in a plan, are made on the way, while the layer's
    analyses are at hand: made on demand, each would cost an analysis.
    """
    block = channel_block(job.options.provider)
    listed: Options = {}
    sizes = {node: size for node in prepared.candidates if (size := prepared.contexts[node].input_hw) is not None}
    with job.progress.stage("Predicting the error of every rank", len(sizes)) as advance:
        for node, size in sizes.items():
            layer = prepared.layers[node]
            kinds = job.options.kinds if layer.kernel != (1, 1) else _projections(job.options.kinds)
            errors = _remembered(job, prepared, node, partial(_predicted, job, statistics, node, layer))
            listed[node] = candidate_options(Layer(node, layer, size, errors), block=block, kinds=kinds)
            _make_chains(job, builder, listed[node])
            advance(1)
    _warn_of_few_positions(job, prepared, statistics, list(sizes))
    return listed


def _make_chains(job: Job, builder: Builder, options: Sequence[Option]) -> None:
    weighted = job.options.weighted
    tried = tried_options(options) if job.options.sensitivity else []
    # Refined factors take seconds each, so they are left to the plans.
    likely = [] if job.options.rounds else pareto(options, _macs)
    for option in dict.fromkeys([*tried, *likely]):
        assert option.kind is not None
        assert option.rank is not None
        builder.prepare(option.node, option.kind, option.rank, weighted=weighted, rounds=0)


def _warn_of_few_positions(job: Job, prepared: Prepared, statistics: Statistics, nodes: Sequence[str]) -> None:
    """Of fewer positions than it has rows a covariance is singular, and the errors predicted by it are too small."""
    few = [
        node
        for node in nodes
        if statistics.output[node].count
        < _rows(prepared.layers[node], needs_of(prepared.layers[node], job.options.kinds))
    ]
    if few:
        prepared.warnings.append(
            f"{len(prepared.calibration)} calibration images show {len(few)} of {len(nodes)} layers too few positions: "
            "their predicted errors are too small, and more images would make better factors"
        )
        job.progress.warn(prepared.warnings[-1])


def _rows(layer: ConvLayer, needs: Sequence[Need]) -> int:
    """Of the largest covariance, per group, that is gathered of a layer."""
    sizes = {"output": layer.out_channels // layer.group, "input": layer.weight[0].size}
    return max((sizes[need] for need in needs), default=0)


def time_options(
    job: Job,
    prepared: Prepared,
    listed: Mapping[str, Sequence[Option]],
    dense_ms: Mapping[str, float],
    precision: Precision,
    float_ms: Mapping[str, float] | None = None,
) -> Options:
    """The options with the times that they take in `precision`.

    In int8 the layer as it is becomes an option as well: what it replaces, and the options are timed against, is the
    layer in float between int8 neighbours.

    Args:
        dense_ms: time of each Conv in a whole model of this precision. The paired ratios measured in context are
            applied to it, so that an option's milliseconds are on the whole model's scale; where it is empty, the
            context's own times stand.
        float_ms: for int8, the same of the model in float. Between int8 neighbours a layer in float takes as long as
            that at least, and conversions on top.
    """
    chains = {
        node: {
            option.name: skeleton(prepared.layers[node], option.kind, option.rank)
            for option in options
            if option.kind is not None and option.rank is not None
        }
        for node, options in listed.items()
    }
    timings = time_chains(job, prepared.layers, prepared.contexts, chains, precision)
    timed: Options = {}
    for node, options in listed.items():
        row = timings.get(node, {})
        if precision == "fp32":
            timed[node] = [
                option.timed(dense / row[option.name].ratio, dense)
                for option in options
                for dense in [dense_ms.get(node, row[option.name].dense_ms)]
            ]
            continue
        dense = dense_ms.get(node, row[FLOAT].dense_ms)
        in_float = max(dense / row[FLOAT].ratio, (float_ms or {}).get(node, 0.0))
        timed[node] = [as_it_is(prepared, node).timed(dense, in_float)]
        timed[node] += [
            replace(option, precision=precision).timed(dense / row[option.name].ratio, in_float) for option in options
        ]
    return timed


def as_it_is(prepared: Prepared, node: str) -> Option:
    """A Conv in int8 that keeps its shape."""
    info = next(info for info in prepared.infos if info.node == node)
    macs = info.macs or 0
    return Option(node, None, None, macs, macs, info.params, info.params, 0.0, precision="int8")


def paying(job: Job, options: Mapping[str, list[Option]]) -> Options:
    """Of each layer's options those that pay and that no other beats in what is saved and in error at once.

    All pay where time is not what is saved.
    """
    if job.options.objective == "latency":
        worth, _ = drop_unpaying(options, _LEAST_GAIN)
        cost: Callable[[Option], float] = milliseconds
    else:
        worth = dict(options)
        cost = _macs if job.options.objective == "macs" else _params
    return {node: pareto(listed, cost) for node, listed in worth.items()}


def milliseconds(option: Option) -> float:
    """Of an option in context; infinite until it is timed."""
    return float("inf") if option.ms is None else option.ms


def _macs(option: Option) -> float:
    return option.macs


def _params(option: Option) -> float:
    return option.params


def _projections(kinds: Sequence[str]) -> list[str]:
    """The kinds that mean something of their own for a 1×1 Conv; all others are output PCA there (`needs_of`)."""
    return [kind for kind in kinds if kind in ("output-pca", "weight-svd")] or ["output-pca"]


def _predicted(
    job: Job, statistics: Statistics, node: str, layer: ConvLayer, kind: str, ranks: Sequence[int]
) -> NDArray[np.floating[Any]]:
    return statistics.factorizer(node, kind, layer, weighted=job.options.weighted).errors(ranks)


def _remembered(
    job: Job, prepared: Prepared, node: str, errors: Callable[[str, Sequence[int]], NDArray[np.floating[Any]]]
) -> Callable[[str, Sequence[int]], NDArray[np.floating[Any]]]:
    """`errors` by way of the cache: another machine or thread count asks for the same ones."""

    def cached(kind: str, ranks: Sequence[int]) -> NDArray[np.floating[Any]]:
        weighted = job.options.weighted
        seed = job.options.seed if weighted else None
        key = statistics_key(
            job, prepared, "errors", node=node, kind=kind, ranks=list(ranks), weighted=weighted, seed=seed
        )
        found = job.cache.json(key)
        if found is None:
            found = [float(error) for error in errors(kind, ranks)]
            job.cache.put_json(key, found)
        return np.asarray(found)

    return cached
