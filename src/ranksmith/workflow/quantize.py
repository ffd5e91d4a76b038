"""int8 by calibration: ranges from the data, and of several ways to choose them the one that keeps the answers.

One pass of the float model over the calibration images fills a histogram for every value that is to be quantized
(`measure.ranges`); memory does not depend on the number of images. Each method's ranges give a model; the one whose
class output is closest to the float model's (mean KL on the same images) is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.data.dataset import Dataset
from ranksmith.data.loader import Batch
from ranksmith.data.split import split
from ranksmith.errors import DataError, ModelError, NodeNotFoundError
from ranksmith.graph import io
from ranksmith.graph.fold import fold
from ranksmith.graph.precision import split_by_precision
from ranksmith.measure.accuracy import agreement, kl, logits, single_input
from ranksmith.measure.ranges import METHODS, Histogram
from ranksmith.progress import Progress, Silent
from ranksmith.results import Preprocess
from ranksmith.results.graph import Skip
from ranksmith.results.quantize import QuantizeReport, RangeMethod
from ranksmith.runtime.quantize import OPERATORS, Range, quantizable_values, quantize
from ranksmith.runtime.session import open_session
from ranksmith.workflow.images import ImageSet
from ranksmith.workflow.inputs import image_batch
from ranksmith.workflow.source import ModelSource

__all__ = ["BestRanges", "Histograms", "best_ranges", "collect_ranges", "histograms_of", "quantize_model"]

_BATCH = 4
"""All activations of a batch are held at once: 90 MB for four images through ResNet-50."""

_NOT_FINITE_HINT = "the model overflows on these images: are they prepared as it expects (--preprocess)?"


@dataclass(frozen=True, eq=False)
class Histograms:
    """What every value that is to be quantized looked like.

    Attributes:
        values: histogram by value name.
        images: number of images seen.
    """

    values: dict[str, Histogram] = field(default_factory=dict)
    images: int = 0

    def ranges(self, method: str) -> dict[str, Range]:
        """The range of every value by one of `ranksmith.measure.ranges.METHODS`."""
        return {name: histogram.range(method) for name, histogram in self.values.items()}


@dataclass(frozen=True, eq=False)
class BestRanges:
    """The int8 model whose answers are closest to the float model's.

    Attributes:
        model: serialized, in QDQ form.
        method: how its ranges were chosen.
        ranges: by value name.
        table: every method that was tried, best first.
    """

    model: bytes
    method: str
    ranges: dict[str, Range]
    table: list[RangeMethod]


def collect_ranges(model: bytes, batches: Iterable[Batch], *, keep: Collection[str] = (), threads: int) -> Histograms:
    """Run `model` over `batches` and fill a histogram for each value that `quantize` needs the range of.

    Args:
        keep: nodes that stay float; the histograms for none serve any.

    Raises:
        NodeNotFoundError: `keep` names a node that the model does not have.
        ModelError: no operator to quantize, not one input, or a value that is not finite.
        DataError: no batch came.
    """
    return histograms_of(io.from_bytes(model), quantizable_values(model, keep=keep), batches, threads=threads)


def histograms_of(model: ir.Model, values: Sequence[str], batches: Iterable[Batch], *, threads: int) -> Histograms:
    """Run `model` over `batches` as far as `values` need it and fill a histogram for each of them.

    Args:
        model: normalized; ends in `values` afterwards, so that nothing behind them is computed.
        values: inputs of the graph, or made by its nodes.

    Raises:
        ModelError: not one input, or a value that is not finite.
        DataError: no batch came.
    """
    # A graph input cannot also be an output: what is seen of it is the batch itself.
    given = {value.name for value in model.graph.inputs}
    outputs = [name for name in values if name not in given]
    made = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.clear()
    model.graph.outputs.extend(made[name] for name in outputs)
    session = open_session(io.to_bytes(model), threads=threads)
    source = single_input(session)
    histograms = {name: Histogram() for name in values}
    images = 0
    for batch in batches:
        seen = dict(zip(outputs, session.run({source: batch.images}, outputs), strict=True))
        for name, histogram in histograms.items():
            try:
                histogram.update(seen.pop(name, batch.images))
            except ValueError as error:
                raise ModelError(
                    f"the value {name} is NaN or infinite for some image", hint=_NOT_FINITE_HINT
                ) from error
        images += len(batch)
    if not images:
        raise DataError("not one image could be read, so there is nothing to calibrate on")
    return Histograms(histograms, images)


def best_ranges(
    model: bytes,
    histograms: Histograms,
    images: ImageSet,
    *,
    methods: Sequence[str] = METHODS,
    reference: NDArray[np.floating] | None = None,
    keep: Collection[str] = (),
    threads: int,
    progress: Progress | None = None,
) -> BestRanges:
    """Quantize `model` by each method and keep the one whose answers are closest to the reference.

    Args:
        model: serialized, normalized, float.
        images: what they are judged on, as a rule those that `histograms` come from.
        reference: logits [N, classes] on `images` to come close to; None: those of `model`.
        keep: nodes that stay float.

    Raises:
        ModelError: the model is no classifier, or cannot be quantized.
    """
    progress = progress or Silent()
    if reference is None:
        reference = _answers(model, images, "The float model's answers", threads, progress)
    tried: list[tuple[RangeMethod, bytes, dict[str, Range]]] = []
    for method in methods:
        ranges = histograms.ranges(method)
        candidate = quantize(model, ranges, keep=keep)
        answers = _answers(candidate, images, f"The answers in int8, {method} ranges", threads, progress)
        found = RangeMethod(method=method, kl=kl(reference, answers), agreement=agreement(reference, answers))
        tried.append((found, candidate, ranges))
    # Sorting is stable: of two that are equally close, the plainer method, which comes first.
    tried.sort(key=lambda entry: entry[0].kl)
    best, content, ranges = tried[0]
    return BestRanges(content, best.method, ranges, [found for found, _, _ in tried])


def quantize_model(
    source: ModelSource,
    *,
    dataset: Dataset,
    preprocess: Preprocess,
    calibration: int,
    methods: Sequence[str] = METHODS,
    keep: Collection[str] = (),
    threads: int,
    seed: int,
    progress: Progress,
) -> tuple[bytes, QuantizeReport]:
    """Fold the model of `source` and bring it to int8; the model and what was found out.

    Args:
        calibration: how many images of `dataset` to use, chosen by `seed` and content.

    Raises:
        NodeNotFoundError: `keep` names a node that the model does not have.
        ModelError: nothing in the model can be quantized, or it is no classifier.
        DataError: no image can be read.
    """
    model = io.load(source.path)
    fold(model)
    content = io.to_bytes(model)
    names = [node.name or "" for node in model.graph]
    if unknown := [name for name in keep if name not in names]:
        raise NodeNotFoundError(unknown[0], names)
    chosen = split(dataset, calibration=calibration, seed=seed, calibration_only=True)
    for warning in chosen.warnings:
        progress.warn(warning)
    images = ImageSet(dataset, chosen.calibration, preprocess, image_batch(model, source.path, wanted=_BATCH))
    # First the file itself, so that one that takes no images, or is no classifier, is told by its name.
    reference = _answers(source.path, images, "The float model's answers", threads, progress)
    histograms = collect_ranges(
        content, _told(images, progress, "Ranges of the activations"), keep=keep, threads=threads
    )
    best = best_ranges(
        content, histograms, images, methods=methods, reference=reference, keep=keep, threads=threads, progress=progress
    )
    integer, floating = split_by_precision(ir.serde.deserialize_model(onnx.load_model_from_string(best.model)))
    return best.model, QuantizeReport(
        model=source.name,
        data=dataset.name,
        calibration=histograms.images,
        method=best.method,
        methods=best.table,
        bytes_before=source.path.stat().st_size,
        bytes_after=len(best.model),
        quantized=dict(sorted(Counter(node.op_type for node in integer).items())),
        kept=[Skip(node=node.name or "", why=_why_float(node, keep)) for node in floating],
    )


def _answers(
    model: Path | bytes, images: ImageSet, title: str, threads: int, progress: Progress
) -> NDArray[np.floating]:
    answers, _ = logits(open_session(model, threads=threads), _told(images, progress, title))
    return answers


def _told(images: ImageSet, progress: Progress, title: str) -> Iterator[Batch]:
    with progress.stage(title, len(images)) as advance:
        for batch in images.batches(progress.warn):
            yield batch
            advance(len(batch))


def _why_float(node: ir.Node, keep: Collection[str]) -> str:
    if node.name in keep:
        return f"{node.op_type}: asked for"
    if node.op_type not in OPERATORS:
        return f"{node.op_type}: onnxruntime does not compute it on integers"
    return f"{node.op_type}: what it reads or makes is float"
