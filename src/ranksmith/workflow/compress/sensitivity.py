"""How much each layer's error hurts, measured on the model's answers.

One layer at a time is decomposed, mildly and strongly, and the rest of the model behind it is run on a few
calibration images; so is every layer brought to int8 by itself. How far the answers move from the original's is the
damage (`search.damage` makes a curve of it).

The distance that tells layers apart is the mean square of the change of the centred logits, not the divergence: of KL
most comes from the few images that the model is unsure of, so that on sixteen images it says more about these than
about the layer. Both grow with the square of the error, and their ratio is the images' and no layer's, so what was
measured of all layers together turns the one into the other, and damages are in nats.

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
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.query import conv_context
from ranksmith.graph.rounding import round_conv
from ranksmith.graph.split import between, bottlenecks, split
from ranksmith.measure.accuracy import as_logits, kl, squared_change
from ranksmith.runtime.session import Session, default_threads, open_session
from ranksmith.search.candidates import Option, pareto
from ranksmith.search.damage import DamageCurve
from ranksmith.workflow.build import Builder, Chain
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.statistics import statistics_key
from ranksmith.workflow.images import first_batches

__all__ = ["Damages", "measure_damages", "tried_chain", "tried_options"]

Array = NDArray[Any]

# Fractions of a layer's multiply-adds that are left by what is tried, mild and strong.
_TRIED = (0.8, 0.5)
# Layers whose inputs are held together.
_AT_ONCE = 8
# Variants that run side by side, where there are cores for them; each holds activations of its own.
_WORKERS = 4


@dataclass(frozen=True)
class Damages:
    """What was found out of every layer, in nats.

    Attributes:
        curves: damage against error of each layer that has options.
        in_int8: damage of each Conv by itself in int8.
    """

    curves: dict[str, DamageCurve]
    in_int8: dict[str, float]


class _Variant(NamedTuple):
    """A change of one Conv: to factors, or to int8 where there is no option."""

    node: str
    option: Option | None


class _Moved(NamedTuple):
    """How far a variant moved the answers: mean KL in nats, and the mean squared change of the centred logits."""

    kl: float
    squared: float


def measure_damages(
    job: Job,
    prepared: Prepared,
    builder: Builder,
    listed: Mapping[str, Sequence[Option]],
    output: str,
    in_int8: Sequence[str] = (),
) -> Damages:
    """The damage that each layer's options do, and int8 does to each Conv.

    Args:
        listed: options by node.
        output: the model's class output.
        in_int8: the Convs to bring to int8.
    """
    decomposed = [_Variant(node, option) for node, options in listed.items() for option in tried_options(options)]
    rounded = [_Variant(node, None) for node in in_int8]
    if not job.options.sensitivity:
        return Damages({node: DamageCurve() for node, _ in decomposed}, dict.fromkeys(in_int8, 0.0))
    moved = _measured(job, prepared, builder, [*decomposed, *rounded], output)
    damage = _in_nats(moved)
    points: dict[str, list[tuple[float, float]]] = {}
    for node, option in decomposed:
        assert option is not None
        points.setdefault(node, []).append((option.error, damage[node, option]))
    return Damages(
        {node: DamageCurve(found) for node, found in points.items()}, {node: damage[node, None] for node in in_int8}
    )


def _in_nats(moved: Mapping[_Variant, _Moved]) -> dict[tuple[str, Option | None], float]:
    """The squared changes at the rate, in nats, that all of them have together."""
    squared = sum(each.squared for each in moved.values())
    rate = sum(each.kl for each in moved.values()) / squared if squared else 0.0
    return {variant: rate * each.squared for variant, each in moved.items()}


def _key(job: Job, prepared: Prepared, variant: _Variant) -> str:
    options, (node, option) = job.options, variant
    if option is None:
        how: dict[str, object] = {"precision": "int8"}
    else:
        how = {"kind": option.kind, "rank": option.rank, "weighted": options.weighted, "seed": options.seed}
    return statistics_key(job, prepared, "moved", images=options.sensitivity, node=node, **how)


def _measured(
    job: Job, prepared: Prepared, builder: Builder, variants: Sequence[_Variant], output: str
) -> dict[_Variant, _Moved]:
    """How far each variant moves the answers, from the cache where it is there."""
    keys = {variant: _key(job, prepared, variant) for variant in variants}
    stored: dict[_Variant, Any] = {variant: job.cache.json(key) for variant, key in keys.items()}
    missing: dict[str, list[_Variant]] = {}
    for variant, value in stored.items():
        if value is None:
            missing.setdefault(variant.node, []).append(variant)

    def contents(behind: _Behind) -> list[bytes]:
        return [
            behind.rounded() if option is None else behind.decomposed(tried_chain(job, builder, option))
            for _, option in missing[behind.node]
        ]

    nodes = {variant.node for variant in variants}
    measured = _damages(job, prepared, output, list(missing), contents)
    with job.progress.stage("Measuring how much each layer matters", len(nodes)) as advance, closing(measured):
        advance(len(nodes) - len(missing))
        for node, found in measured:
            for variant, moved in zip(missing[node], found, strict=True):
                stored[variant] = list(moved)
                job.cache.put_json(keys[variant], stored[variant])
            advance(1)
    return {variant: _Moved(*value) for variant, value in stored.items()}


def _damages(
    job: Job, prepared: Prepared, output: str, nodes: Sequence[str], contents: Callable[[_Behind], Sequence[bytes]]
) -> Generator[tuple[str, list[_Moved]], None, None]:
    """What each node's variants do, in the order of the graph.

    Variants run side by side, each on its share of the cores: opening a session and what Python does are of one
    thread, and so cost nothing but their own core's time.
    """
    if not nodes:
        return
    images = [batch.images for batch in first_batches(prepared.calibration.batches(), job.options.sensitivity)]
    workers = min(_WORKERS, default_threads())
    pending: deque[tuple[str, list[Future[_Moved]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ranksmith-variant")
    try:
        for behind in _behind_each(prepared, images, output, nodes, default_threads() // workers):
            pending.append((behind.node, [pool.submit(behind.moved, content) for content in contents(behind)]))
            # One more than there are workers, so that they have work while the next block is made ready.
            if len(pending) > workers:
                yield _finished(pending.popleft())
        while pending:
            yield _finished(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(measured: tuple[str, list[Future[_Moved]]]) -> tuple[str, list[_Moved]]:
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

    def moved(self, variant: bytes) -> _Moved:
        """How far the answers are from the original's with a variant in the part's place."""
        session = open_session(variant, threads=self.threads)
        answers = []
        for feeds in self.feeds:
            [value] = session.run(feeds, [self.end])
            if self.rest is not None:
                [value] = self.rest.run({self.end: value}, [self.output])
            answers.append(as_logits(value, session.name))
        found = np.concatenate(answers)
        return _Moved(kl(self.original, found), squared_change(self.original, found))


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
