"""The latency table of this machine: every option timed in context, paired with the dense layer.

An option's context is what the runtime sees around it in the model: a producer in blocked layout, the
candidate, the Add and Relu that the runtime fuses into it, a consumer. All options of one layer are
measured interleaved with the dense layer in one go, and what is kept is the paired ratio; layers of the
same geometry share a measurement. Rows are cached with everything they depend on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.graph.context import context_model
from ranksmith.graph.query import ConvContext
from ranksmith.measure.latency import paired_latency, random_feeds
from ranksmith.runtime.machine import fingerprint, machine
from ranksmith.runtime.session import Session, open_session
from ranksmith.workflow.cache import key_of
from ranksmith.workflow.compress.job import Job

__all__ = ["Timing", "time_chains"]

_ROUNDS, _BURST_MS = 21, 3.0


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
) -> dict[str, dict[str, Timing]]:
    """Time each layer's chains (node → option name → chain) against the layer itself.

    Layers whose image size is unknown cannot be timed in context and are left out.
    """
    groups: dict[str, list[str]] = {}
    for node in chains:
        if contexts[node].input_hw is not None and chains[node]:
            groups.setdefault(_row_key(job, layers[node], contexts[node], chains[node]), []).append(node)
    timings: dict[str, dict[str, Timing]] = {}
    total = sum(len(chains[nodes[0]]) for nodes in groups.values())
    with job.progress.stage("Timing candidates in context", total) as advance:
        for key, nodes in groups.items():
            first = nodes[0]
            row = job.cache.json(key)
            if row is None:
                row = _measure(job, layers[first], contexts[first], chains[first])
                job.cache.put_json(key, row)
            for node in nodes:
                timings[node] = {name: Timing(*row[name]) for name in chains[node]}
            advance(len(chains[first]))
    return timings


def _measure(
    job: Job, layer: ConvLayer, context: ConvContext, chains: Mapping[str, Chain]
) -> dict[str, tuple[float, float]]:
    options = job.options
    sessions = [_session(job, chain, context) for chain in [(layer,), *chains.values()]]
    feeds = random_feeds(sessions[0], options.batches[0], options.seed)
    runners = [partial(session.run, feeds) for session in sessions]
    samples = paired_latency(runners, pairs=_ROUNDS, seed=options.seed, min_time_ms=_BURST_MS)
    dense_ms = float(np.median(samples[:, 0]))
    return {
        name: (dense_ms, float(np.median(samples[:, 0] / samples[:, column])))
        for column, name in enumerate(chains, start=1)
    }


def _session(job: Job, chain: Sequence[ConvLayer], context: ConvContext) -> Session:
    assert context.input_hw is not None
    return open_session(
        context_model(chain, context.input_hw, context.followers),
        provider=job.options.provider,
        threads=job.options.threads,
    )


def _row_key(job: Job, layer: ConvLayer, context: ConvContext, chains: Mapping[str, Chain]) -> str:
    """Everything a row depends on; the weights' values are not among it, so equal shapes share a row."""
    return key_of(
        "latency",
        machine=fingerprint(machine(), job.options.provider, job.options.threads),
        batch=job.options.batches[0],
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
