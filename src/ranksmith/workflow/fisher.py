"""What the model's answers say about each Conv's output: gradients over images, streamed into Fisher matrices.

For every image a random direction u of the centred logits z is drawn, normal in every class, and u·z is differentiated
with respect to the output of each Conv: one backward pass, however many classes there are (Hutchinson 1990). Numbers
are drawn image by image, so they do not depend on how images are batched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.data.dataset import Dataset
from ranksmith.data.loader import load
from ranksmith.errors import DataError
from ranksmith.graph.gradient import SEED, gradient_model, gradient_name, logits_of
from ranksmith.graph.io import to_bytes
from ranksmith.graph.nodes import static_dims
from ranksmith.graph.query import conv_context, conv_layer
from ranksmith.lowrank.fisher import GradientStatistics
from ranksmith.measure.accuracy import class_output, single_input
from ranksmith.progress import Progress
from ranksmith.results import Preprocess
from ranksmith.runtime.session import Session, fixed_batch, open_session

__all__ = ["gather_fisher"]

_BUDGET_BYTES = 256 << 20
"""Of all gradients of one batch together."""
_ENOUGH_IMAGES = 96
"""The metric is blended with the identity, so it need not be as exact as a covariance, and an image costs as much as
five runs of the model."""


def gather_fisher(
    model: ir.Model,
    nodes: Sequence[str],
    *,
    dataset: Dataset,
    indices: Sequence[int] | NDArray[np.integer[Any]],
    preprocess: Preprocess,
    threads: int,
    progress: Progress,
    seed: int,
    batch: int = 8,
    skipped: list[str] | None = None,
    title: str = "Gradients",
) -> dict[str, GradientStatistics]:
    """Gather the Fisher matrix of the output of each Conv in `nodes` over the first 96 `indices` of `dataset`.

    Batches are made smaller, and the images are gone through more than once, where the gradients of one batch would
    take too much memory. An image that cannot be read is skipped, with a warning.

    Args:
        model: normalized.
        batch: at most so many images at once; a fixed batch of the model goes before.
        seed: of the directions that are drawn.
        skipped: reasons that the user has been told already; new ones are added.

    Returns:
        Statistics by node. A node from which no operator with a known gradient leads to the answer is absent.

    Raises:
        DataError: not a single image could be read.
        ModelError: the model is no classifier of images, it cannot be run, or a gradient is not finite.
    """
    indices = indices[:_ENOUGH_IMAGES]
    source, output, fixed = _ends(model, threads)
    logits = logits_of(model, output)
    values = {conv_context(model, node).output_value: node for node in nodes}
    gradients, reached = gradient_model(model, list(values), logits)
    found = {values[value]: GradientStatistics(conv_layer(model, values[value]).out_channels) for value in reached}
    dims = (static_dims(next(value for value in gradients.graph.inputs if value.name == SEED)) or [])[1:]
    classes = [dim for dim in dims if dim is not None]
    if not reached or not classes or len(classes) < len(dims):
        return {}

    sizes = {value: _bytes_of(gradients, gradient_name(value)) for value in reached}
    at_once = fixed or max(1, min(batch, _BUDGET_BYTES // sum(sizes.values())))
    skipped = [] if skipped is None else skipped
    passes = list(_passes(sizes, _BUDGET_BYTES // at_once))
    with progress.stage(title, len(indices) * len(passes)) as advance:
        for wanted in passes:
            if len(passes) > 1:
                gradients, _ = gradient_model(model, wanted, logits)
            targets = {gradient_name(value): found[values[value]] for value in wanted}
            backward = open_session(to_bytes(gradients), threads=threads)
            draws = np.random.default_rng(seed)
            for images in load(dataset, indices, preprocess, batch=at_once, skipped=skipped, warn=progress.warn):
                directions = draws.standard_normal((len(images), *classes), np.float32)
                directions -= directions.mean(axis=1, keepdims=True)
                _take(backward, source, images.images, directions, targets, fixed)
                advance(len(images))
    if not next(iter(found.values())).images:
        raise DataError(f"not one image of {dataset.name} could be read", hint=skipped[0] if skipped else None)
    return found


def _ends(model: ir.Model, threads: int) -> tuple[str, str, int | None]:
    """The names of the input and of the class output, and the batch where it is fixed."""
    session = open_session(to_bytes(model), threads=threads)
    return single_input(session), class_output(session), fixed_batch(session)


def _take(
    session: Session,
    source: str,
    images: NDArray[np.float32],
    directions: NDArray[np.float32],
    targets: Mapping[str, GradientStatistics],
    fixed: int | None,
) -> None:
    """Update `targets` with the gradients for some images, which are filled up to a `fixed` batch."""
    count = len(images)
    if fixed is not None and count < fixed:
        images, directions = (
            np.concatenate([array, np.repeat(array[-1:], fixed - count, axis=0)]) for array in (images, directions)
        )
    wanted = next(value for value in session.inputs if value.name == SEED)
    feeds = {source: images, SEED: directions.astype(wanted.dtype)}
    for gradient, statistics in zip(session.run(feeds, list(targets)), targets.values(), strict=True):
        statistics.update(gradient[:count])


def _bytes_of(gradients: ir.Model, name: str) -> int:
    """For one image; an unknown size counts as 1."""
    shape = next(value.shape for value in gradients.graph.outputs if value.name == name)
    return 4 * math.prod(dim for dim in (shape or ())[1:] if isinstance(dim, int))


def _passes(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Split values into runs of at most `most` bytes, or of one value."""
    run: list[str] = []
    total = 0
    for value, size in sizes.items():
        if run and total + size > most:
            yield run
            run, total = [], 0
        run.append(value)
        total += size
    if run:
        yield run
