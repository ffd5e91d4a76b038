"""The latency table of this machine: every option timed in context, paired with the dense layer.

An option's context is what the runtime sees around it in the model: a producer in blocked layout, the
candidate, the Add and Relu that the runtime fuses into it, a consumer. All options of one layer are
measured interleaved with the dense layer in one go, and what is kept is the paired ratio; layers of the
same geometry share a measurement. Rows are cached with everything they depend on.

Of options that differ in nothing but the rank three are timed, and where they lie on a line the others are read off it
(`search.series`).

In int8 the whole context is quantized, with made-up ranges, and so are the dense layer and every option. One more
option is the dense layer in float between int8 neighbours: what it costs to leave it so, conversions included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.graph.context import context_model
from ranksmith.graph.query import ConvContext
from ranksmith.lowrank.cost import chain_macs
from ranksmith.measure.latency import paired_latency, random_feeds, session_runners
from ranksmith.results import Precision
from ranksmith.runtime.machine import fingerprint, machine
from ranksmith.runtime.quantize import quantizable_values, quantize
from ranksmith.runtime.session import Session, open_session
from ranksmith.search.series import along_line, to_measure
from ranksmith.workflow.cache import key_of
from ranksmith.workflow.compress.job import Job

__all__ = ["FLOAT", "Timing", "time_chains"]

FLOAT = "float"
"""The name of the dense layer in float between int8 neighbours."""

_ROUNDS, _BURST_MS = 7, 2.0
_MOST_AT_ONCE = 16
"""Sessions that are held and timed together."""


@dataclass(frozen=True)
class Timing:
    """An option beside the dense layer, both in context.

    Attributes:
        dense_ms: median of the dense layer.
        ratio: median of the paired ratios dense / option; above 1 the option is faster.
    """

    dense_ms: float
    ratio: float


Chain = tuple[ConvLayer, ...]


def time_chains(
    job: Job,
    layers: Mapping[str, ConvLayer],
    contexts: Mapping[str, ConvContext],
    chains: Mapping[str, Mapping[str, Chain]],
    precision: Precision = "fp32",
) -> dict[str, dict[str, Timing]]:
    """Time each layer's chains (node → option name → chain) against the layer itself, all in `precision`.

    Layers whose image size is unknown cannot be timed in context and are left out. In int8 each row has one entry
    more, `FLOAT`.
    """
    groups: dict[str, list[str]] = {}
    for node in chains:
        if contexts[node].input_hw is not None and (chains[node] or precision == "int8"):
            key = _row_key(job, layers[node], contexts[node], chains[node], precision)
            groups.setdefault(key, []).append(node)
    timings: dict[str, dict[str, Timing]] = {}
    total = sum(len(chains[nodes[0]]) for nodes in groups.values())
    with job.progress.stage(f"Timing {precision} candidates in context", total) as advance:
        for key, nodes in groups.items():
            first = nodes[0]
            row = job.cache.json(key)
            if row is None:
                row = _measure(job, layers[first], contexts[first], chains[first], precision)
                job.cache.put_json(key, row)
            for node in nodes:
                timings[node] = {name: Timing(*row[name]) for name in row}
            advance(len(chains[first]))
    return timings


def _measure(
    job: Job, layer: ConvLayer, context: ConvContext, chains: Mapping[str, Chain], precision: Precision
) -> dict[str, tuple[float, float]]:
    series = _series(chains, _size(context))
    few = {name: chains[name] for each in series for name in _few(each)}
    row = _timed(job, layer, context, few, precision, beside=[FLOAT] if precision == "int8" else [])
    bent: list[str] = []
    for each in series:
        dense_ms = row[_few(each)[0]][0]
        line = along_line(list(each.values()), [1.0 / row[name][1] for name in _few(each)])
        if line is None:
            bent += [name for name in each if name not in row]
        else:
            row |= {name: (dense_ms, float(1.0 / time)) for name, time in zip(each, line, strict=True)}
    return row | _timed(job, layer, context, {name: chains[name] for name in bent}, precision)


def _timed(
    job: Job,
    layer: ConvLayer,
    context: ConvContext,
    chains: Mapping[str, Chain],
    precision: Precision,
    beside: Sequence[str] = (),
) -> dict[str, tuple[float, float]]:
    """(dense_ms, ratio) of `chains`, and of the dense layer in float if `beside` says so."""
    if not chains and not beside:
        return {}
    named = [(name, context_model(chain, _size(context), context.followers)) for name, chain in chains.items()]
    dense = context_model((layer,), _size(context), context.followers)
    if precision == "int8":
        named = [(name, _quantized(model)) for name, model in named]
        named += [(name, _quantized(dense, keep=("layer0",))) for name in beside]
        dense = _quantized(dense)
    row: dict[str, tuple[float, float]] = {}
    for start in range(0, len(named), _MOST_AT_ONCE):
        part = named[start : start + _MOST_AT_ONCE]
        sessions = [_session(job, model) for model in (dense, *(model for _, model in part))]
        feeds = random_feeds(sessions[0], job.options.batches[0], job.options.seed)
        runners = session_runners(sessions, feeds)
        samples = paired_latency(runners, pairs=_ROUNDS, seed=job.options.seed, min_time_ms=_BURST_MS)
        dense_ms = float(np.median(samples[:, 0]))
        for column, (name, _) in enumerate(part, start=1):
            row[name] = (dense_ms, float(np.median(samples[:, 0] / samples[:, column])))
    return row


def _series(chains: Mapping[str, Chain], size: tuple[int, int]) -> list[dict[str, int]]:
    """Chains that differ in nothing but the rank: the multiply-adds of each, increasing."""
    found: dict[object, dict[str, int]] = {}
    for name, chain in chains.items():
        alike = tuple((part.kernel, part.strides, part.group) for part in chain)
        found.setdefault(alike, {})[name] = chain_macs(chain, *size)
    return [dict(sorted(each.items(), key=lambda pair: pair[1])) for each in found.values()]


def _few(series: Mapping[str, int]) -> list[str]:
    names = list(series)
    return [names[index] for index in to_measure(len(names))]


def _size(context: ConvContext) -> tuple[int, int]:
    assert context.input_hw is not None
    return context.input_hw


def _quantized(model: bytes, keep: Sequence[str] = ()) -> bytes:
    """The context in int8. What the ranges are makes no difference to its time."""
    return quantize(model, dict.fromkeys(quantizable_values(model, keep=keep), (-1.0, 1.0)), keep=keep)


def _session(job: Job, model: bytes) -> Session:
    return open_session(model, provider=job.options.provider, threads=job.options.threads)


def _row_key(
    job: Job, layer: ConvLayer, context: ConvContext, chains: Mapping[str, Chain], precision: Precision
) -> str:
    """Everything a row depends on; the weights' values are not among it, so equal shapes share a row."""
    return key_of(
        "latency",
        machine=fingerprint(machine(), job.options.provider, job.options.threads),
        batch=job.options.batches[0],
        precision=precision,
        layer=_shape(layer),
        context=(context.input_hw, context.followers),
        chains={name: [_shape(part) for part in chain] for name, chain in chains.items()},
    )


def _shape(layer: ConvLayer) -> tuple[object, ...]:
    return (
        tuple(layer.weight.shape),
        layer.strides,
        layer.pads,
        layer.dilations,
        layer.group,
        layer.bias is not None,
    )
