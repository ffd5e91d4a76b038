"""How much each layer's error hurts, measured on the model's answers.

One layer at a time is decomposed, mildly and strongly, and the rest of the model behind it is run on a few
calibration images; so is every layer brought to int8 by itself. The divergence from the original's answers is the
damage (`search.damage` makes a curve of it).

The model is walked from bottleneck to bottleneck (`graph.split.bottlenecks`). A variant is a session of what lies
between its layer and the next bottleneck; what follows that is one session for all variants before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.query import conv_context
from ranksmith.graph.rounding import round_conv
from ranksmith.graph.split import between, bottlenecks, split
from ranksmith.measure.accuracy import as_logits, kl
from ranksmith.runtime.session import Session, default_threads, open_session
from ranksmith.search.candidates import Option, pareto
from ranksmith.search.damage import DamageCurve
from ranksmith.workflow.build import Builder, Chain
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.statistics import statistics_key
from ranksmith.workflow.images import first_batches

__all__ = ["damage_curves", "damages_in_int8", "tried_chain", "tried_options"]

Array = NDArray[Any]

# Fractions of a layer's multiply-adds that are left by what is tried, mild and strong.
_TRIED = (0.8, 0.5)
# Layers whose inputs are held together.
_AT_ONCE = 8
# Variants that run side by side, where there are cores for them; each holds activations of its own.
_WORKERS = 4


def damage_curves(
    job: Job, prepared: Prepared, builder: Builder, listed: Mapping[str, Sequence[Option]], output: str
) -> dict[str, DamageCurve]:
    """Damage against error of each layer that has options.

    Args:
        output: the model's class output.
    """
    worth = {node: tried_options(options) for node, options in listed.items() if options}
    if not job.options.sensitivity:
        return {node: DamageCurve() for node in worth}

    def variants(behind: _Behind) -> list[bytes]:
        return [behind.decomposed(tried_chain(job, builder, option)) for option in worth[behind.node]]

    def points(node: str, damages: Sequence[float]) -> list[tuple[float, float]]:
        return [(option.error, damage) for option, damage in zip(worth[node], damages, strict=True)]

    keys = {
        node: _key(
            job,
            prepared,
            node,
            tried=[(option.kind, option.rank) for option in options],
            weighted=job.options.weighted,
            seed=job.options.seed,
        )
        for node, options in worth.items()
    }
    found = _measured(job, prepared, output, keys, variants, points, "Measuring how much each layer matters")
    return {node: DamageCurve([(error, damage) for error, damage in pairs]) for node, pairs in found.items()}


def damages_in_int8(job: Job, prepared: Prepared, nodes: Sequence[str], output: str) -> dict[str, float]:
    """Damage of each Conv by itself in int8."""
    if not job.options.sensitivity:
        return dict.fromkeys(nodes, 0.0)
    keys = {node: _key(job, prepared, node, precision="int8") for node in nodes}

    def variants(behind: _Behind) -> list[bytes]:
        return [behind.rounded()]

    def only(_: str, damages: Sequence[float]) -> float:
        return damages[0]

    return _measured(job, prepared, output, keys, variants, only, "Measuring what int8 does to each layer")


def _key(job: Job, prepared: Prepared, node: str, **more: object) -> str:
    return statistics_key(job, prepared, "sensitivity", images=job.options.sensitivity, node=node, **more)


def _measured(
    job: Job,
    prepared: Prepared,
    output: str,
    keys: Mapping[str, str],
    variants: Callable[[_Behind], Sequence[bytes]],
    record: Callable[[str, Sequence[float]], Any],
    title: str,
) -> dict[str, Any]:
    """What `record` makes of each node's damages by its `variants`, from the cache where it is there."""
    found = {node: job.cache.json(key) for node, key in keys.items()}
    missing = [node for node, value in found.items() if value is None]
    measured = _damages(job, prepared, output, missing, variants)
    with job.progress.stage(title, len(keys)) as advance, closing(measured):
        advance(len(keys) - len(missing))
        for node, damages in measured:
            found[node] = record(node, damages)
            job.cache.put_json(keys[node], found[node])
            advance(1)
    return found


def _damages(
    job: Job, prepared: Prepared, output: str, nodes: Sequence[str], variants: Callable[[_Behind], Sequence[bytes]]
) -> Generator[tuple[str, list[float]], None, None]:
    """Each node's damages, in the order of the graph.

    Variants run side by side, each on its share of the cores: opening a session and what Python does are of one
    thread, and so cost nothing but their own core's time.
    """
    if not nodes:
        return
    images = [batch.images for batch in first_batches(prepared.calibration.batches(), job.options.sensitivity)]
    workers = min(_WORKERS, default_threads())
    pending: deque[tuple[str, list[Future[float]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ranksmith-variant")
    try:
        for behind in _behind_each(prepared, images, output, nodes, default_threads() // workers):
            pending.append((behind.node, [pool.submit(behind.damage, content) for content in variants(behind)]))
            # One more than there are workers, so that they have work while the next block is made ready.
            if len(pending) > workers:
                yield _finished(pending.popleft())
        while pending:
            yield _finished(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(measured: tuple[str, list[Future[float]]]) -> tuple[str, list[float]]:
    node, futures = measured
    return node, [future.result() for future in futures]


def _behind_each(
    prepared: Prepared, images: Sequence[Array], output: str, nodes: Sequence[str], threads: int
) -> Iterator[_Behind]:
    """What follows each node, in the order of the graph."""
    folded = prepared.folded
    place, here = folded.graph.inputs[0].name or "", images
    original = _answers(_values(folded, place, here, [output]), output)
    starts = bottlenecks(folded)
    # A block ends where the next one that has a Conv begins, so that the activation after it is part of it.
    places = list(dict.fromkeys(starts[info.node] for info in prepared.infos))
    ends = dict(zip(places, [*places[1:], output], strict=True))
    order = {node: index for index, node in enumerate(starts)}
    for start, group in groupby(sorted(nodes, key=order.__getitem__), key=starts.__getitem__):
        if start != place:
            here = [values[start] for values in _values(folded, place, here, [start])]
            place = start
        inside, end = list(group), ends[start]
        rest = None if end == output else open_session(io.to_bytes(between(folded, end, output)), threads=threads)
        for first in range(0, len(inside), _AT_ONCE):
            parts = {node: _part(folded, start, end, node) for node in inside[first : first + _AT_ONCE]}
            crossing = sorted({name for _, names in parts.values() for name in names})
            values = _values(folded, start, here, crossing)
            for node, (part, names) in parts.items():
                feeds = [{name: batch[name] for name in names} for batch in values]
                yield _Behind(node, part, feeds, end, rest, original, output, threads)


def _part(folded: ir.Model, start: str, end: str, node: str) -> tuple[ir.Model, list[str]]:
    """What a Conv between the values `start` and `end` does to the latter, and the values that this reads."""
    block = between(folded, start, end)
    if node not in {each.name for each in block.graph}:
        # Nothing of what it makes reaches the answer.
        block = between(folded, start, end, conv_context(folded, node).output_value)
    _, part, crossing = split(block, conv_context(block, node).input_value)
    return part, crossing


def _values(model: ir.Model, place: str, here: Sequence[Array], names: Sequence[str]) -> list[dict[str, Array]]:
    """Values that follow from that at `place`, batch by batch."""
    wanted = [name for name in names if name != place]
    if not wanted:
        return [{place: batch} for batch in here]
    session = open_session(io.to_bytes(between(model, place, *wanted)), threads=default_threads())
    return [{place: batch} | dict(zip(wanted, session.run({place: batch}, wanted), strict=True)) for batch in here]


def _answers(batches: Sequence[Mapping[str, Array]], output: str) -> Array:
    return np.concatenate([as_logits(batch[output], "the original") for batch in batches])


@dataclass(frozen=True, eq=False)
class _Behind:
    """The model from one Conv on.

    Attributes:
        part: from the Conv to the value `end`.
        feeds: what reaches it, batch by batch.
        rest: from `end` to the answer; None where that is the answer.
        original: the original's answers on the same images.
        threads: that a variant runs with.
    """

    node: str
    part: ir.Model
    feeds: Sequence[Mapping[str, Array]]
    end: str
    rest: Session | None
    original: Array
    output: str
    threads: int

    def decomposed(self, chain: Chain) -> bytes:
        """The part with the Conv replaced by `chain`."""
        model = self.part.clone()
        replace_conv(model, self.node, chain)
        return io.to_bytes(model)

    def rounded(self) -> bytes:
        """The part with the Conv in int8, between the smallest and the largest value that reach it."""
        model = self.part.clone()
        value = conv_context(model, self.node).input_value
        low = min(float(batch[value].min()) for batch in self.feeds)
        high = max(float(batch[value].max()) for batch in self.feeds)
        round_conv(model, self.node, low, high)
        return io.to_bytes(model)

    def damage(self, variant: bytes) -> float:
        """Mean KL of the answers from the original's, with a variant in the part's place."""
        session = open_session(variant, threads=self.threads)
        answers = []
        for feeds in self.feeds:
            [value] = session.run(feeds, [self.end])
            if self.rest is not None:
                [value] = self.rest.run({self.end: value}, [self.output])
            answers.append(as_logits(value, session.name))
        return kl(self.original, np.concatenate(answers))


def tried_options(options: Sequence[Option]) -> list[Option]:
    """Of the options with the least error for their cost, those nearest to what is to be tried on the answers."""
    best = pareto(options, lambda option: option.macs)
    if not best:
        return []
    chosen = [min(best, key=lambda option: abs(option.macs / option.dense_macs - left)) for left in _TRIED]
    return list(dict.fromkeys(chosen))


def tried_chain(job: Job, builder: Builder, option: Option) -> Chain:
    """The factors that an option's damage is measured with."""
    assert option.kind is not None
    assert option.rank is not None
    return builder.chain(option.node, option.kind, option.rank, weighted=job.options.weighted, rounds=0)
