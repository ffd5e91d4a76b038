"""Build the model that a rank plan describes: decompose, repair, and for int8 rotate, calibrate and quantize.

`compress` and `decompose --plan` build by this one path, so a plan that was found is rebuilt bit for bit from the same
model and images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.data.loader import Batch
from ranksmith.errors import ModelError, NodeNotFoundError, RankError, UsageError
from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.query import conv_infos, conv_layer
from ranksmith.lowrank.rotate import balance_and_rotate
from ranksmith.progress import Silent
from ranksmith.results import Change, PlanEntry, RankPlan, to_json
from ranksmith.runtime.quantize import Range, quantize
from ranksmith.workflow.cache import Cache, key_of
from ranksmith.workflow.images import first_batches
from ranksmith.workflow.quantize import Histograms, collect_ranges, histograms_of
from ranksmith.workflow.repair import repair
from ranksmith.workflow.statistics import Statistics

__all__ = ["Builder", "Chain", "entries_by_node"]

Chain = tuple[ConvLayer, ...]

_RANGE_IMAGES = 32
"""Ranges settle soon; every further image is one more run of the float model for each plan."""

_PART = re.compile(r"/\d+of\d+(_\d+)?$")
"""What `replace_conv` puts behind a Conv's name."""


class Builder:
    """Models of plans, from one folded model.

    Args:
        folded: left as it is.
        statistics: what the plans' kinds need; of the nodes that plans name.
        images: the calibration images, from the first, for activation ranges; None where no plan is int8.
        threads: for running the model.
        seed: of the rotations, for plans that do not say theirs.
        cache: where chains, and the ranges between factors, are kept between runs, under `key`, which says what the
            statistics and the images are.
    """

    def __init__(
        self,
        folded: ir.Model,
        statistics: Statistics,
        *,
        images: Callable[[], Iterable[Batch]] | None = None,
        threads: int,
        seed: int = 0,
        cache: Cache | None = None,
        key: str = "",
    ) -> None:
        self._folded = folded
        self._statistics = statistics
        self._images = images
        self._threads = threads
        self._seed = seed
        self._cache = cache
        self._key = key
        self._histograms: Histograms | None = None
        self._known: dict[str, dict[str, Range]] = {}
        self._order = [info.node for info in conv_infos(folded)]

    def build(self, plan: RankPlan) -> tuple[bytes, list[Change]]:
        """The plan's model, serialized, and which Convs were replaced.

        Raises:
            NodeNotFoundError: the plan names a Conv that the model does not have.
            RankError: a rank outside 1..full.
            UsageError: the plan names a node twice, or is int8 and there are no images.
            ModelError: the model cannot be quantized.
        """
        entries = entries_by_node(plan, self._order)
        model = self._folded.clone()
        nodes = [node for node in self._order if node in entries and entries[node].kind is not None]
        changes = [replace_conv(model, node, self._finished(entries[node], plan)) for node in nodes]
        if plan.repair and nodes:
            images = self._first(plan.repair, "a repaired plan needs images to fit its factors to")
            repair(self._folded, model, nodes, images, threads=self._threads, progress=Silent())
        content = io.to_bytes(model)
        if plan.precision == "int8":
            keep = _kept(model, [node for node, entry in entries.items() if entry.precision == "fp32"])
            content = quantize(content, self._ranges(model, plan), keep=keep)
        return content, changes

    def chain(self, node: str, kind: str, rank: int, *, weighted: bool, rounds: int) -> Chain:
        """The factors of one Conv."""
        key = self._chain_key(node, kind, rank, weighted, rounds)
        stored = self._cache.arrays(key) if self._cache else None
        if stored is not None:
            return _chain_of(stored)
        layer = conv_layer(self._folded, node)
        try:
            chain = self._statistics.factorizer(node, kind, layer, weighted=weighted).factors(rank, rounds=rounds)
        except RankError as error:
            raise RankError(f"{node}: {error.message}", hint=error.hint) from error
        if self._cache:
            self._cache.put_arrays(key, _arrays_of(chain))
        return chain

    def prepare(self, node: str, kind: str, rank: int, *, weighted: bool, rounds: int) -> None:
        """Put the factors of one Conv into the cache, if there is one, while the layer's analyses are at hand."""
        if self._cache and not self._has_chain(node, kind, rank, weighted, rounds):
            self.chain(node, kind, rank, weighted=weighted, rounds=rounds)

    def missing(self, plan: RankPlan) -> list[str]:
        """The nodes that need statistics to build the plan: their factors are not in the cache."""
        return [
            entry.node
            for entry in plan.layers
            if entry.kind is not None
            and entry.rank is not None
            and not self._has_chain(entry.node, entry.kind, entry.rank, plan.weighted, plan.rounds)
        ]

    def _has_chain(self, node: str, kind: str, rank: int, weighted: bool, rounds: int) -> bool:
        return self._cache is not None and self._cache.has_arrays(self._chain_key(node, kind, rank, weighted, rounds))

    def _chain_key(self, node: str, kind: str, rank: int, weighted: bool, rounds: int) -> str:
        return key_of("chain", of=self._key, node=node, by=kind, rank=rank, weighted=weighted, rounds=rounds)

    def histograms(self, content: bytes | None = None) -> Histograms:
        """What the activations of a float model look like on the first calibration images.

        Args:
            content: serialized; None: the folded model, whose histograms are gathered once.

        Raises:
            UsageError: there are no images.
        """
        if content is not None:
            return collect_ranges(content, self._range_images(), threads=self._threads)
        if self._histograms is None:
            self._histograms = self.histograms(io.to_bytes(self._folded))
        return self._histograms

    def _ranges(self, model: ir.Model, plan: RankPlan) -> dict[str, Range]:
        """The ranges of a built float model's values, by value; `model` is used up.

        What the folded model has too keeps the range that it has there: decomposing moves it little, and it is what
        the decomposed model is to come close to. New are the values between factors.
        """
        method = plan.ranges or "minmax"
        if method not in self._known:
            self._known[method] = self._kept_ranges(lambda: self.histograms().ranges(method), method=method)
        made = set(_made(self._folded))
        inner = [name for name in _made(model) if name not in made]
        if not inner:
            return self._known[method]
        between = self._kept_ranges(
            lambda: histograms_of(model, inner, self._range_images(), threads=self._threads).ranges(method),
            plan=to_json(plan),
            seed=self._seed,
        )
        return self._known[method] | between

    def _kept_ranges(self, find: Callable[[], dict[str, Range]], **what: object) -> dict[str, Range]:
        """What `find` finds, by way of the cache: it is to run the float model over the images."""
        key = key_of("ranges", of=self._key, **what)
        found = self._cache.json(key) if self._cache else None
        if found is None:
            found = find()
            if self._cache:
                self._cache.put_json(key, found)
        return {name: (low, high) for name, (low, high) in found.items()}

    def _range_images(self) -> list[Batch]:
        return self._first(_RANGE_IMAGES, "an int8 plan needs images to find the ranges of its activations")

    def _first(self, count: int, why: str) -> list[Batch]:
        """The first batches that hold `count` images."""
        if self._images is None:
            raise UsageError(why, hint="pass --data")
        return list(first_batches(self._images(), count))

    def _finished(self, entry: PlanEntry, plan: RankPlan) -> Chain:
        assert entry.kind is not None
        assert entry.rank is not None
        chain = self.chain(entry.node, entry.kind, entry.rank, weighted=plan.weighted, rounds=plan.rounds)
        if (entry.precision or plan.precision) == "int8":
            # Eigenvectors are spiky, and spikes waste the eight bits.
            chain = balance_and_rotate(chain, self._seed if plan.seed is None else plan.seed)
        return chain


def entries_by_node(plan: RankPlan, known: Sequence[str]) -> dict[str, PlanEntry]:
    """The plan's entries by node.

    Raises:
        NodeNotFoundError: one is not among `known`.
        UsageError: two are of the same node.
    """
    entries: dict[str, PlanEntry] = {}
    for entry in plan.layers:
        if entry.node in entries:
            raise UsageError(f"the plan names {entry.node} twice")
        if entry.node not in known:
            raise NodeNotFoundError(entry.node, known)
        entries[entry.node] = entry
    return entries


def _kept(model: ir.Model, nodes: Sequence[str]) -> list[str]:
    """The nodes of a built model that stay float: each of `nodes`, or the Convs that replaced it."""
    names = [info.node for info in conv_infos(model)]
    kept = [name for name in names if name in nodes or _PART.sub("", name) in nodes]
    if len(kept) < len(nodes):
        raise ModelError("a Conv that is to stay float cannot be found in the model that was built")
    return kept


def _made(model: ir.Model) -> list[str]:
    """The values that a model's nodes make, in order."""
    return [value.name for node in model.graph for value in node.outputs if value.name]


def _arrays_of(chain: Chain) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for index, layer in enumerate(chain):
        geometry = (*layer.strides, *layer.pads, *layer.dilations, layer.group)
        arrays |= {f"weight{index}": layer.weight, f"geometry{index}": np.array(geometry)}
        if layer.bias is not None:
            arrays[f"bias{index}"] = layer.bias
    return arrays


def _chain_of(arrays: Mapping[str, NDArray[Any]]) -> Chain:
    layers = []
    for index in range(sum(name.startswith("weight") for name in arrays)):
        s0, s1, top, left, bottom, right, d0, d1, group = (int(value) for value in arrays[f"geometry{index}"])
        layers.append(
            ConvLayer(
                arrays[f"weight{index}"],
                arrays.get(f"bias{index}"),
                (s0, s1),
                (top, left, bottom, right),
                (d0, d1),
                group,
            )
        )
    return tuple(layers)
