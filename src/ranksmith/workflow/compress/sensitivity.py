"""How much each layer's error hurts, measured on the model's answers.

One layer at a time is decomposed, mildly and strongly, and the rest of the model behind it is run on a few
calibration images; so is every layer brought to int8 by itself. The divergence from the original's answers is the
damage (`search.damage` makes a curve of it). What comes before the layers is run once for several of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.expose import expose
from ranksmith.graph.query import conv_context
from ranksmith.graph.rounding import round_conv
from ranksmith.graph.split import split
from ranksmith.measure.accuracy import as_logits, kl
from ranksmith.runtime.session import default_threads, open_session
from ranksmith.search.candidates import Option
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

    def measure(behind: _Behind) -> list[tuple[float, float]]:
        options = worth[behind.node]
        damages = behind.damages([behind.decomposed(tried_chain(job, builder, option)) for option in options])
        return [(option.error, damage) for option, damage in zip(options, damages, strict=True)]

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
    found = _measured(job, prepared, output, keys, measure, "Measuring how much each layer matters")
    return {node: DamageCurve([(error, damage) for error, damage in points]) for node, points in found.items()}


def damages_in_int8(job: Job, prepared: Prepared, nodes: Sequence[str], output: str) -> dict[str, float]:
    """Damage of each Conv by itself in int8."""
    if not job.options.sensitivity:
        return dict.fromkeys(nodes, 0.0)
    keys = {node: _key(job, prepared, node, precision="int8") for node in nodes}

    def measure(behind: _Behind) -> float:
        return behind.damages([behind.rounded()])[0]

    return _measured(job, prepared, output, keys, measure, "Measuring what int8 does to each layer")


def _key(job: Job, prepared: Prepared, node: str, **more: object) -> str:
    return statistics_key(job, prepared, "sensitivity", images=job.options.sensitivity, node=node, **more)


def _measured(
    job: Job,
    prepared: Prepared,
    output: str,
    keys: Mapping[str, str],
    measure: Callable[[_Behind], Any],
    title: str,
) -> dict[str, Any]:
    """What `measure` finds behind each node, from the cache where it is there."""
    found = {node: job.cache.json(key) for node, key in keys.items()}
    missing = [node for node, value in found.items() if value is None]
    with job.progress.stage(title, len(keys)) as advance:
        advance(len(keys) - len(missing))
        original: Array | None = None
        for start in range(0, len(missing), _AT_ONCE):
            parts = {node: _suffix(prepared, node) for node in missing[start : start + _AT_ONCE]}
            crossing = sorted({name for _, names in parts.values() for name in names} | {output})
            values = _values(job, prepared, crossing)
            if original is None:
                original = as_logits(np.concatenate([batch[output] for batch in values]), "the original")
            for node, (suffix, names) in parts.items():
                feeds = [{name: batch[name] for name in names} for batch in values]
                found[node] = measure(_Behind(node, suffix, feeds, original, output))
                job.cache.put_json(keys[node], found[node])
                advance(1)
    return found


def _suffix(prepared: Prepared, node: str) -> tuple[ir.Model, list[str]]:
    """The model from one Conv on, and the values that it reads."""
    _, suffix, crossing = split(prepared.folded, conv_context(prepared.folded, node).input_value)
    return suffix, crossing


def _values(job: Job, prepared: Prepared, names: Sequence[str]) -> list[dict[str, Array]]:
    """Values of the original on the first calibration images, batch by batch."""
    given = {value.name for value in prepared.folded.graph.inputs}
    wanted = [name for name in names if name not in given]
    watched = prepared.folded.clone()
    expose(watched, [name for name in wanted if name not in {value.name for value in watched.graph.outputs}])
    session = open_session(io.to_bytes(watched), threads=default_threads())
    source = session.inputs[0].name
    batches = []
    for batch in first_batches(prepared.calibration.batches(), job.options.sensitivity):
        seen = dict(zip(wanted, session.run({source: batch.images}, wanted), strict=True))
        batches.append({source: batch.images} | seen)
    return batches


@dataclass(frozen=True, eq=False)
class _Behind:
    """The model from one Conv on.

    Attributes:
        feeds: what reaches it, batch by batch.
        original: the original's answers on the same images.
    """

    node: str
    suffix: ir.Model
    feeds: Sequence[Mapping[str, Array]]
    original: Array
    output: str

    def decomposed(self, chain: Chain) -> bytes:
        """With the Conv replaced by `chain`."""
        model = self.suffix.clone()
        replace_conv(model, self.node, chain)
        return io.to_bytes(model)

    def rounded(self) -> bytes:
        """With the Conv in int8, between the smallest and the largest value that reach it."""
        model = self.suffix.clone()
        value = conv_context(model, self.node).input_value
        low = min(float(batch[value].min()) for batch in self.feeds)
        high = max(float(batch[value].max()) for batch in self.feeds)
        round_conv(model, self.node, low, high)
        return io.to_bytes(model)

    def damages(self, variants: Sequence[bytes]) -> list[float]:
        """Mean KL of each variant's answers from the original's."""
        return [kl(self.original, self._answers(model)) for model in variants]

    def _answers(self, model: bytes) -> Array:
        session = open_session(model, threads=default_threads())
        return np.concatenate([as_logits(session.run(feeds, [self.output])[0], session.name) for feeds in self.feeds])


def tried_options(options: Sequence[Option]) -> list[Option]:
    """Of the options with the least error for their cost, those nearest to what is to be tried on the answers."""
    best: list[Option] = []
    for option in sorted(options, key=lambda option: (option.macs, option.error)):
        if not best or option.error < best[-1].error:
            best.append(option)
    if not best:
        return []
    chosen = [min(best, key=lambda option: abs(option.macs / option.dense_macs - left)) for left in _TRIED]
    return list(dict.fromkeys(chosen))


def tried_chain(job: Job, builder: Builder, option: Option) -> Chain:
    """The factors that an option's damage is measured with."""
    assert option.kind is not None
    assert option.rank is not None
    return builder.chain(option.node, option.kind, option.rank, weighted=job.options.weighted, rounds=0)
