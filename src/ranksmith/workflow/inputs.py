"""The images a verb works on, from what the command line and the model's source say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ranksmith.data import preprocess as preprocessing
from ranksmith.data.dataset import Dataset, open_dataset
from ranksmith.data.labels import IMAGENET_LABELS, read_labels
from ranksmith.errors import ModelError, UsageError
from ranksmith.graph import io
from ranksmith.graph.query import input_infos, output_infos
from ranksmith.progress import Progress
from ranksmith.results import Preprocess
from ranksmith.workflow.source import ModelSource

__all__ = ["Inputs", "choose_preprocess", "image_batch", "open_inputs"]

_BATCH = 8


@dataclass(frozen=True)
class Inputs:
    """Images, how they are prepared, and the names of their classes.

    Attributes:
        calibration: images of their own to calibrate on; None where `dataset` is to be split.
    """

    dataset: Dataset
    calibration: Dataset | None
    preprocess: Preprocess
    labels: Sequence[str] | None


def open_inputs(
    source: ModelSource,
    *,
    data: Path | None,
    calibration_data: Path | None = None,
    labels: Path | None = None,
    devkit: Path | None = None,
    preprocess: str | None = None,
    progress: Progress,
) -> Inputs:
    """Open the data that was given, or what comes with the model.

    Raises:
        UsageError: no data given, and none comes with the model.
        DataError: data or labels that cannot be used.
    """
    if data is None:
        data = source.data
        calibration_data = calibration_data or source.calibration_data
    if data is None:
        raise UsageError("no images to work on", hint="pass --data: a directory, ILSVRC2012_img_val.tar, or an .npz")
    if labels is None and data.is_dir() and _is_imagenet(source, data):
        labels = IMAGENET_LABELS
        progress.note("the folders are ImageNet synsets: matched to the 1,000 classes in their usual order")
    dataset = open_dataset(data, labels=labels, devkit=devkit)
    names = read_labels(labels).lines if labels is not None else source.labels
    return Inputs(
        dataset=dataset,
        calibration=open_dataset(calibration_data, labels=labels, devkit=devkit) if calibration_data else None,
        preprocess=choose_preprocess(source, preprocess, progress=progress),
        labels=names if names is not None else dataset.class_names,
    )


def image_batch(model: ir.Model, path: Path, *, wanted: int = _BATCH) -> int:
    """How many images `model` takes at once: as many as wanted, or one where its batch is fixed to one.

    Raises:
        ModelError: it has not one input, or its batch is fixed to another number.
    """
    inputs = input_infos(model)
    if len(inputs) != 1:
        raise ModelError(f"{path} has {len(inputs)} inputs, where one that takes images is expected")
    shape = inputs[0].shape
    fixed = shape[0] if shape and isinstance(shape[0], int) else None
    if fixed not in (None, 1):
        raise ModelError(
            f"{path}: input {inputs[0].name} has a fixed batch of {fixed}",
            hint="export the model with a symbolic batch dimension, or with batch 1",
        )
    return fixed or wanted


def _is_imagenet(source: ModelSource, data: Path) -> bool:
    """Folders named by ImageNet synsets for a model of 1,000 outputs: the one order everybody trains with."""
    synsets = {line.split()[0] for line in read_labels(IMAGENET_LABELS).lines}
    folders = [entry.name for entry in data.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    shape = output_infos(io.load(source.path))[0].shape
    return bool(folders) and synsets.issuperset(folders) and len(synsets) in (shape or [])[1:2]


def choose_preprocess(source: ModelSource, asked: str | None, *, progress: Progress) -> Preprocess:
    """What was asked for, else what the source knows, else a guess from the input's shape, with a warning."""
    if asked is not None:
        return preprocessing.named_or_file(asked)
    if source.preprocess is not None:
        return source.preprocess
    guessed, warning = preprocessing.guess(input_infos(io.load(source.path))[0].shape)
    progress.warn(warning)
    return guessed
