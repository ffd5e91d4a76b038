"""What the data say about each Conv: one pass over the images, every layer's statistics at once.

The values of interest (a Conv's output for output PCA, its input for the input-side kinds) are made
graph outputs of a copy of the model; each batch's activations update the streaming statistics and are
dropped, so memory does not depend on the number of images. It does depend on the layers: the columns of a 3×3 Conv of
512 channels have 4608² second moments. `passes` cuts the layers into runs that fit a budget, and statistics that are
stored are read back one layer at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.data.dataset import Dataset
from ranksmith.data.loader import load
from ranksmith.errors import DataError
from ranksmith.graph.expose import expose
from ranksmith.graph.io import to_bytes
from ranksmith.graph.query import conv_context, conv_infos, conv_layer
from ranksmith.lowrank.factor import KINDS, Factorizer
from ranksmith.lowrank.fisher import GradientStatistics
from ranksmith.lowrank.spectra import retained_energy
from ranksmith.lowrank.statistics import InputStatistics, OutputStatistics, enough_positions
from ranksmith.progress import Progress
from ranksmith.results import Preprocess
from ranksmith.runtime.session import open_session

__all__ = ["Need", "Statistics", "gather", "needs_of", "passes"]

Need = Literal["output", "input"]

_BUDGET_BYTES = 1 << 30
"""Of the sums over input columns that are held at once."""

_MIX, _FITTED_MIX = {"output-pca": 0.1}, 0.5
"""Shares of the identity in the metric. Measured on five 3×3 Convs of ResNet-50 at 35 % of full rank, gradients of 256
images, KL on 80 others: input-side .030 without a metric, .029 with a share of .1, .026 with .5; spatial .0030, .0034,
.0027; output PCA, from 64 images, .32 without and .07 with .1."""


def needs_of(layer: ConvLayer, kinds: Sequence[str]) -> list[Need]:
    """Which statistics `kinds` take of a layer.

    Of a 1×1 Conv the input-side and spatial kinds are what output PCA is already, so its input is not looked at
    for their sake.
    """
    wanted = {KINDS[kind].needs for kind in kinds}
    return [need for need in ("output", "input") if need in wanted and (need == "output" or layer.kernel != (1, 1))]


def passes(layers: Mapping[str, ConvLayer], budget_bytes: int = _BUDGET_BYTES) -> list[list[str]]:
    """Cut layers into runs whose input statistics together take at most `budget_bytes`; one layer at least."""
    runs: list[list[str]] = []
    free = 0
    for node, layer in layers.items():
        depth = int(np.prod(layer.weight.shape[1:]))
        size = layer.group * depth * depth * 8
        if not runs or size > free:
            runs.append([])
            free = budget_bytes
        runs[-1].append(node)
        free -= size
    return runs


@dataclass
class Statistics:
    """Streaming statistics by node.

    Attributes:
        output: of the Conv's output channels.
        input: of the im2col columns of the Conv's input.
        fisher: what the model's answer says about the output, in whose metric factors may be fitted.
        stored: reads the input statistics of a node that `input` does not hold.
        images: number of images seen.
        skipped: the reason for each image that could not be read.
    """

    output: dict[str, OutputStatistics] = field(default_factory=dict)
    input: dict[str, InputStatistics] = field(default_factory=dict)
    fisher: dict[str, GradientStatistics] = field(default_factory=dict)
    stored: Callable[[str], InputStatistics] | None = None
    images: int = 0
    skipped: list[str] = field(default_factory=list)
    _factorizers: dict[tuple[str, str, bool], Factorizer] = field(default_factory=dict, repr=False)
    _energies: dict[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)

    def energy(self, node: str, group: int) -> NDArray[np.float64]:
        """Cumulative energy of the output of `node` by rank (per group); kept, like the factorizers."""
        if node not in self._energies:
            self._energies[node] = retained_energy(self.output[node].covariance, group)
        return self._energies[node]

    def factorizer(self, node: str, kind: str, layer: ConvLayer, *, weighted: bool = False) -> Factorizer:
        """All ranks of `node` by `kind`, fitted in the node's metric if `weighted` and there is one.

        Those of the last node are kept, because their eigendecompositions are what costs; more would take too much
        memory.
        """
        key = (node, kind, weighted)
        if key not in self._factorizers:
            for other in [known for known in self._factorizers if known[0] != node]:
                del self._factorizers[other]
            needs = KINDS[kind].needs
            # Statistics of the input are read once for all kinds, and so is what is made of them.
            beside = next((known for known in self._factorizers.values() if KINDS[known.kind].needs == needs), None)
            if needs == "input":
                found = self._input_of(node) if beside is None else beside.statistics
            else:
                found = None if needs is None else self.output[node]
            fisher = self.fisher.get(node) if weighted else None
            metric = None if fisher is None else fisher.weighting(_MIX.get(kind, _FITTED_MIX))
            self._factorizers[key] = Factorizer(layer, kind, found, metric, beside)
        return self._factorizers[key]

    def _input_of(self, node: str) -> InputStatistics:
        if node in self.input or self.stored is None:
            return self.input[node]
        return self.stored(node)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, for the cache."""
        arrays: dict[str, NDArray[Any]] = {
            "images": np.asarray(self.images),
            "skipped": np.asarray(self.skipped, np.str_),
        }
        for need, found in (("output", self.output), ("input", self.input)):
            for node, streaming in found.items():
                arrays |= {f"{need}|{node}|{name}": array for name, array in streaming.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, layers: Mapping[str, ConvLayer], arrays: Mapping[str, NDArray[Any]]) -> Statistics:
        """What `to_arrays` gave."""
        statistics = cls(images=int(arrays["images"]), skipped=arrays["skipped"].tolist())
        parts: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
        for key, array in arrays.items():
            if key not in ("images", "skipped"):
                # A node's name may hold any character; what stands before and after it may not.
                need, rest = key.split("|", 1)
                node, name = rest.rsplit("|", 1)
                parts.setdefault((need, node), {})[name] = array
        for (need, node), own in parts.items():
            if need == "output":
                statistics.output[node] = OutputStatistics.from_arrays(own)
            else:
                statistics.input[node] = InputStatistics.from_arrays(layers[node], own)
        return statistics


def gather(
    model: ir.Model,
    needs: Mapping[str, Sequence[Need]],
    *,
    dataset: Dataset,
    indices: Sequence[int] | NDArray[np.integer[Any]],
    preprocess: Preprocess,
    threads: int,
    progress: Progress,
    batch: int = 8,
    skipped: list[str] | None = None,
    title: str = "Gathering statistics",
    thin: bool = False,
) -> Statistics:
    """Run the model over `indices` of `dataset` and gather what `needs` asks of each Conv.

    An image that cannot be read is skipped, with a warning.

    Args:
        skipped: reasons that the user has been told already; new ones are added.
        thin: take only `enough_positions` of large maps, which is all that factors need.

    Raises:
        DataError: not a single image could be read.
        ModelError: the model cannot be run, or an activation is not finite.
    """
    if not needs:
        return Statistics()
    contexts = {node: conv_context(model, node) for node in needs}
    statistics = Statistics(skipped=[] if skipped is None else skipped)
    updates: list[tuple[str, OutputStatistics | InputStatistics]] = []
    for node, wanted in needs.items():
        layer = conv_layer(model, node)
        if "output" in wanted:
            width = layer.out_channels
            limit = enough_positions(width, len(indices)) if thin else None
            statistics.output[node] = OutputStatistics(width, positions_per_image=limit)
            updates.append((contexts[node].output_value, statistics.output[node]))
        if "input" in wanted:
            width = math.prod(layer.weight.shape[1:])
            limit = enough_positions(width, len(indices)) if thin else None
            statistics.input[node] = InputStatistics(layer, positions_per_image=limit)
            updates.append((contexts[node].input_value, statistics.input[node]))

    # A graph input cannot also be an output: what the first Conv sees is the batch itself.
    input_name = model.graph.inputs[0].name
    values = sorted({value for value, _ in updates if value != input_name})
    # An output keeps the runtime from fusing across it, which changes last digits. So the same outputs are made
    # whatever is asked for: a layer's statistics do not depend on its company, and `decompose` builds a plan that
    # `compress` found again bit for bit.
    candidates = [info.node for info in conv_infos(model) if info.candidate]
    watched = model.clone()
    expose(watched, sorted({*values, *(conv_context(model, node).output_value for node in candidates)}))
    session = open_session(to_bytes(watched), threads=threads)
    with progress.stage(title, len(indices)) as advance:
        for images in load(dataset, indices, preprocess, batch=batch, skipped=statistics.skipped, warn=progress.warn):
            feeds = {session.inputs[0].name: images.images}
            seen: dict[str | None, NDArray[Any]] = {}
            if values:
                seen.update(zip(values, session.run(feeds, values), strict=True))
            seen[input_name] = images.images
            for value, target in updates:
                target.update(seen[value])
            statistics.images += len(images.indices)
            advance(len(images.indices))
    for _, target in updates:
        target.settle()
    if not statistics.images:
        raise DataError(f"not one image of {dataset.name} could be read", hint=statistics.skipped[0])
    return statistics
