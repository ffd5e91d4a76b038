"""Fold the model, certify that folding changed nothing, and decide which images do what."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.split import Split, split
from ranksmith.errors import ModelError
from ranksmith.graph import io
from ranksmith.graph.query import conv_context, conv_infos, conv_layer, output_infos
from ranksmith.measure.accuracy import check_labels
from ranksmith.runtime.session import open_session
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.decompose import load_folded
from ranksmith.workflow.images import ImageSet
from ranksmith.workflow.inputs import image_batch

__all__ = ["prepare"]

# Folding is exact up to rounding; the usual difference is near 4e-6 of the largest output.
_FOLD_TOLERANCE = 1e-4


def prepare(job: Job) -> Prepared:
    """Everything that precedes measuring.

    Raises:
        ModelError: the model is not one a classifier's images can be fed to, or folding changed it.
        DataError: too few images, or labels that do not match the model's outputs.
    """
    with job.progress.stage("Folding"):
        folded, report = load_folded(job.source)
    job.progress.note(f"folded {len(report.changed)} BatchNormalization nodes, left {len(report.skipped)}")
    batch = image_batch(folded, job.source.path)
    outputs = output_infos(folded)
    infos = conv_infos(folded)
    candidates = [info.node for info in infos if info.candidate]
    # [N, classes], or [N, classes, 1, 1] of a model that ends in a pooling.
    classes = outputs[0].shape[1] if outputs[0].shape and len(outputs[0].shape) > 1 else None
    if isinstance(classes, int):
        check_labels(job.dataset, classes)

    own, options = job.calibration_dataset, job.options
    chosen = split(job.dataset, calibration=0 if own else options.calibration, seed=options.seed)
    taken = split(own, calibration=options.calibration, seed=options.seed, calibration_only=True) if own else chosen
    warnings = chosen.warnings + (taken.warnings if own else [])
    for warning in warnings:
        job.progress.warn(warning)
    calibration = ImageSet(own or job.dataset, taken.calibration, job.preprocess, batch)
    selection = ImageSet(
        job.dataset,
        _choosing(chosen, options.selection),
        job.preprocess,
        batch,
        "selection",
        # What cannot be read is told once.
        skipped=calibration.skipped,
    )
    prepared = Prepared(
        folded=folded,
        folded_bytes=io.to_bytes(folded),
        source_sha256=io.sha256(job.source.path),
        infos=infos,
        layers={node: conv_layer(folded, node) for node in candidates},
        contexts={node: conv_context(folded, node) for node in candidates},
        calibration=calibration,
        calibration_sha256=taken.calibration_sha256,
        selection=selection,
        holdout=ImageSet(job.dataset, chosen.holdout[: options.holdout], job.preprocess, batch, "held-out"),
        warnings=warnings,
    )
    _certify(job, prepared)
    return prepared


def _choosing(chosen: Split, most: int) -> NDArray[np.int64]:
    """The images that plans are compared on: those set apart for it, and those that were calibrated on.

    A plan does not do visibly better on the images it was fitted to (docs/decisions.md), and of a hundred images of
    their own many choices would be wrong. The accuracy that is reported comes from neither.
    """
    return np.concatenate([chosen.selection[:most], chosen.calibration])


def _certify(job: Job, prepared: Prepared) -> None:
    """Run a few calibration images through both models: the proof that folding is exact."""
    original = open_session(job.source.path, threads=job.options.threads)
    folded = open_session(prepared.folded_bytes, threads=job.options.threads)
    name = original.inputs[0].name
    few = ImageSet(prepared.calibration.dataset, prepared.calibration.indices[:8], job.preprocess, 8)
    for batch in few.batches():
        for image in np.split(batch.images, len(batch.images)):
            expected = original.run({name: image})[0]
            if not np.isfinite(expected).all():
                raise ModelError(
                    f"{job.source.path} gives NaN or infinity on an image of {job.dataset.name}",
                    hint="check that the model and the preprocessing fit the images",
                )
            actual = folded.run({name: image})[0]
            difference = float(np.max(np.abs(expected - actual)))
            if difference > _FOLD_TOLERANCE * max(1.0, float(np.max(np.abs(expected)))):
                raise ModelError(
                    f"folding {job.source.path} changed its output by {difference:.2g}",
                    hint="please report this model: folding must be exact",
                )
