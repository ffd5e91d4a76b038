"""Write the bundle: every file beside its place, then one move."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from ranksmith.bundle import golden
from ranksmith.bundle import manifest as manifests
from ranksmith.files import atomic_directory, sha256_of
from ranksmith.graph import io
from ranksmith.report.page import write_report
from ranksmith.results import FileInfo, Manifest, RankPlan, to_json
from ranksmith.runtime.session import open_session
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.images import ImageSet

__all__ = ["write_bundle"]

_GOLDEN_IMAGES = 16


def write_bundle(
    job: Job, prepared: Prepared, model: bytes, manifest: Manifest, plans: Mapping[str, RankPlan]
) -> Manifest:
    """Write the bundle to `job.options.output` and return the manifest as it was written, with every hash filled in.

    Raises:
        OutputError: it exists and is not to be overwritten, or the disk is full.
    """
    with atomic_directory(job.options.output, overwrite=job.options.overwrite) as folder:
        io.save(io.from_bytes(model), folder / "model.onnx")
        info = FileInfo(
            name="model.onnx",
            sha256=sha256_of(folder / "model.onnx"),
            bytes=sum(file.stat().st_size for file in folder.glob("model.onnx*")),
        )
        manifest = msgspec.structs.replace(
            manifest, model=info, cost_after=msgspec.structs.replace(manifest.cost_after, bytes=info.bytes)
        )
        _write_golden(job, prepared.calibration, folder)
        if manifest.labels is not None:
            (folder / "labels.txt").write_text("\n".join(manifest.labels) + "\n", encoding="utf-8")
        (folder / "frontier").mkdir()
        for name, plan in plans.items():
            (folder / "frontier" / name).write_text(to_json(plan) + "\n", encoding="utf-8")
        manifest = manifests.write(manifest, folder)
        write_report(manifest, folder)
    return manifest


def _write_golden(job: Job, images: ImageSet, folder: Path) -> None:
    """Inputs and the answers this very file gave, one image at a time."""
    session = open_session(folder / "model.onnx", provider=job.options.provider, threads=job.options.threads)
    few = ImageSet(images.dataset, images.indices[:_GOLDEN_IMAGES], job.preprocess, images.batch)
    inputs = np.concatenate([batch.images for batch in few.batches()])
    name = session.inputs[0].name
    names = [info.name for info in session.outputs]
    rows = [session.run({name: image[None]}, names) for image in inputs]
    outputs = {label: np.concatenate([row[i] for row in rows]) for i, label in enumerate(names)}
    golden.save_golden(folder / "golden.npz", {name: inputs}, outputs)
