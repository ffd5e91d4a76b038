"""The error of the layer and of the model's output at every rank of one Conv.

The model is cut at the Conv's output. The part before the cut runs once an image; what is after it runs
once a rank, on the output that the decomposed Conv would have given. For the kinds whose effect is a
projection of the output (weight SVD and output PCA: ŷ = P·y + offset) no decomposed Conv is built at
all; for the others the chain alone runs on the Conv's input. No model file is ever written.

The layer's relative L2 error is relative to the feature map's deviation from its mean, ‖ŷ − y‖ / ‖y − ȳ‖,
so that for output PCA over the same images it is √(1 − energy(rank)), exactly: that closed form is what
is reported for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.data.dataset import Dataset
from ranksmith.data.loader import load
from ranksmith.data.split import sample
from ranksmith.errors import DataError, RankError
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.expose import expose
from ranksmith.graph.io import to_bytes
from ranksmith.graph.query import ConvContext, conv_context, conv_layer
from ranksmith.graph.split import between, split
from ranksmith.lowrank.cost import pair_macs_ratio
from ranksmith.lowrank.factor import full_rank, kind_named
from ranksmith.progress import Progress
from ranksmith.results import Preprocess, SweepPoint, SweepReport
from ranksmith.runtime.session import Session, open_session
from ranksmith.workflow.decompose import load_folded
from ranksmith.workflow.inputs import image_batch
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Statistics, gather

__all__ = ["run"]

Array = NDArray[Any]
Layer2Output = Callable[[dict[str, Array]], tuple[Array, Array]]
"""From the values at the cut to (the layer's output, the model's output) at one rank."""


@dataclass
class _Errors:
    """Running sums of one rank's errors against a reference of known largest magnitude."""

    floor: float
    squared: float = 0.0
    absolute: float = 0.0
    clipped: float = 0.0
    largest: float = 0.0
    count: int = 0

    def update(self, reference: Array, value: Array) -> None:
        difference = np.abs(value - reference)
        self.squared += float(np.sum(np.square(difference, dtype=np.float64)))
        self.absolute += float(np.sum(difference, dtype=np.float64))
        scale = np.maximum(np.abs(reference), self.floor)
        self.clipped += float(np.sum(np.divide(difference, scale, out=difference, where=scale > 0), dtype=np.float64))
        self.largest = max(self.largest, float(np.max(np.abs(value - reference), initial=0.0)))
        self.count += reference.size


@dataclass
class _Reference:
    """What the errors are relative to, gathered in the first pass."""

    layer_largest: float = 0.0
    output_largest: float = 0.0
    output_squared: float = 0.0
    images: int = 0


def run(
    source: ModelSource,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    node: str,
    ranks: Sequence[int],
    kind: str,
    threshold: float,
    limit: int | None,
    threads: int,
    progress: Progress,
    seed: int = 0,
    provider: str = "cpu",
    batch: int = 8,
) -> SweepReport:
    """Errors of `kind` at each of `ranks` for the Conv `node` of the folded model.

    Args:
        threshold: magnitudes below this fraction of the largest are raised to it in the clipped
            relative error, mean(|ŷ − y| / max(|y|, threshold · max|y|)).
        limit: use so many of the images (None: all), drawn by `seed`.

    Raises:
        NodeNotFoundError: no such Conv.
        RankError: a rank outside 1..full.
        DataError: no image could be read.
    """
    model, _ = load_folded(source)
    layer = conv_layer(model, node)
    full = full_rank(layer, kind)
    for rank in ranks:
        if not 1 <= rank <= full:
            raise RankError(f"rank {rank} of {node} is outside 1..{full}", hint=f"full rank of {kind} is {full}")
    context = conv_context(model, node)
    batch = image_batch(model, source.path, wanted=batch)
    indices = sample(len(dataset), limit, seed)
    statistics = gather(
        model,
        {node: ["output", "input"] if kind_named(kind).needs == "input" else ["output"]},
        dataset=dataset,
        indices=indices,
        preprocess=preprocess,
        threads=threads,
        batch=batch,
        progress=progress,
        title="Statistics of the layer",
    )

    def batches() -> Iterator[Array]:
        for loaded in load(dataset, indices, preprocess, batch=batch):
            yield loaded.images

    cut = _Cut(model, node, context, threads=threads, provider=provider)
    makers = {rank: cut.at_rank(layer, kind, rank, statistics) for rank in ranks}
    reference = _reference(cut, batches, progress, len(indices))
    if not reference.images:
        raise DataError(f"not one image of {dataset.name} could be read")
    layer_errors = {rank: _Errors(threshold * reference.layer_largest) for rank in ranks}
    output_errors = {rank: _Errors(threshold * reference.output_largest) for rank in ranks}
    with progress.stage(f"Sweeping {len(ranks)} ranks of {node}", len(indices)) as advance:
        for images in batches():
            values = cut.before(images)
            exact_layer, exact_output = values[cut.layer_value], cut.after(values)
            for rank in ranks:
                layer_output, output = makers[rank](values)
                layer_errors[rank].update(exact_layer, layer_output)
                output_errors[rank].update(exact_output, output)
            advance(len(images))

    spread = float(np.trace(statistics.output[node].covariance)) * statistics.output[node].count
    height, width = context.input_hw or (1, 1)
    factorizer = statistics.factorizer(node, kind, layer)
    closed = kind == "output-pca"
    points = []
    for rank in ranks:
        on_layer, on_output = layer_errors[rank], output_errors[rank]
        points.append(
            SweepPoint(
                rank=rank,
                output_relative_l2=_root_ratio(on_output.squared, reference.output_squared),
                output_clipped_relative=on_output.clipped / on_output.count,
                output_mean_abs=on_output.absolute / on_output.count,
                output_max_abs=on_output.largest,
                layer_relative_l2=factorizer.error(rank) if closed else _root_ratio(on_layer.squared, spread),
                layer_clipped_relative=on_layer.clipped / on_layer.count,
                layer_mean_abs=on_layer.absolute / on_layer.count,
                layer_max_abs=on_layer.largest,
                macs_ratio=pair_macs_ratio(layer, kind, rank, height, width),
            )
        )
    return SweepReport(
        model=source.name,
        node=node,
        kind=kind,
        data=dataset.name,
        images=reference.images,
        threshold=threshold,
        points=points,
        best=_best(points),
    )


class _Cut:
    """The model in two sessions, cut at one Conv's output; for the kinds that need it, a third of the chain alone."""

    def __init__(self, model: ir.Model, node: str, context: ConvContext, *, threads: int, provider: str) -> None:
        self.model = model
        self.node = node
        self.layer_value = context.output_value
        self._input_value = context.input_value
        self._options: dict[str, Any] = {"threads": threads, "provider": provider}
        prefix, suffix, _ = split(model, self.layer_value)
        expose(prefix, [self._input_value])
        self._prefix = open_session(to_bytes(prefix), **self._options)
        self._suffix = open_session(to_bytes(suffix), **self._options)

    def before(self, images: Array) -> dict[str, Array]:
        """Values at the cut, by name, with the layer's input among them."""
        source = self._prefix.inputs[0].name
        return {source: images, **_run_named(self._prefix, {source: images})}

    def after(self, values: dict[str, Array]) -> Array:
        """The model's first output from the values at the cut."""
        return self._suffix.run({info.name: values[info.name] for info in self._suffix.inputs})[0]

    def at_rank(self, layer: ConvLayer, kind: str, rank: int, statistics: Statistics) -> Layer2Output:
        factorizer = statistics.factorizer(self.node, kind, layer)
        projection = factorizer.projection(rank)
        layer_output = (
            self._chain(factorizer.factors(rank, rounds=0)) if projection is None else self._projected(*projection)
        )

        def at_rank(values: dict[str, Array]) -> tuple[Array, Array]:
            output = layer_output(values)
            return output, self.after({**values, self.layer_value: output})

        return at_rank

    def _projected(self, matrix: Array, offset: Array) -> Callable[[dict[str, Array]], Array]:
        matrix, offset = matrix.astype(np.float32), offset.astype(np.float32)[:, None]

        def project(values: dict[str, Array]) -> Array:
            exact = values[self.layer_value]
            flat = exact.reshape(*exact.shape[:2], -1)
            return (matrix @ flat + offset).reshape(exact.shape).astype(exact.dtype)

        return project

    def _chain(self, chain: Sequence[ConvLayer]) -> Callable[[dict[str, Array]], Array]:
        decomposed = self.model.clone()
        replace_conv(decomposed, self.node, chain)
        alone = between(decomposed, self._input_value, self.layer_value)
        session = open_session(to_bytes(alone), **self._options)
        return lambda values: session.run({self._input_value: values[self._input_value]})[0]


def _run_named(session: Session, feeds: dict[str, Array]) -> dict[str, Array]:
    names = [info.name for info in session.outputs]
    return dict(zip(names, session.run(feeds, names), strict=True))


def _reference(cut: _Cut, batches: Callable[[], Iterator[Array]], progress: Progress, total: int) -> _Reference:
    reference = _Reference()
    with progress.stage("The original's output", total) as advance:
        for images in batches():
            values = cut.before(images)
            output = cut.after(values)
            layer = values[cut.layer_value]
            reference.layer_largest = max(reference.layer_largest, float(np.max(np.abs(layer))))
            reference.output_largest = max(reference.output_largest, float(np.max(np.abs(output))))
            reference.output_squared += float(np.sum(np.square(output, dtype=np.float64)))
            reference.images += len(images)
            advance(len(images))
    return reference


def _root_ratio(numerator: float, denominator: float) -> float:
    return float(np.sqrt(numerator / denominator)) if denominator > 0 else 0.0


def _best(points: Sequence[SweepPoint]) -> dict[str, int]:
    """The rank of the least error, by each error, among the ranks that make the layer cheaper."""
    cheaper = [point for point in points if point.macs_ratio < 1]
    if not cheaper:
        return {}
    measures = [name for name in SweepPoint.__struct_fields__ if name not in ("rank", "macs_ratio")]
    return {name: min(cheaper, key=lambda point: (getattr(point, name), point.rank)).rank for name in measures}
