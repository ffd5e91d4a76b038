"""Bundles of the demo model that can be told apart by their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ranksmith.bundle.golden import save_golden
from ranksmith.bundle.manifest import write
from ranksmith.files import sha256_of
from ranksmith.results import FileInfo
from ranksmith.runtime.session import open_session
from ranksmith.workflow.source import resolve
from tests.unit.report.manifests import faster

__all__ = ["demo_bundle", "rewrite"]


def demo_bundle(folder: Path, *, shift: float, outputs: str = "logits", first: float = 0.0) -> Path:
    """A bundle of the demo model whose logits are all larger by `shift`.

    Args:
        outputs: what its output is called.
        first: the first element of the golden inputs.
    """
    source = resolve("demo")
    model = onnx.load(source.path)
    bias = next(entry for entry in model.graph.initializer if entry.name == "fc.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(shift), bias.name))
    model.graph.node[-1].output[0] = model.graph.output[0].name = outputs
    folder.mkdir()
    file = folder / "model.onnx"
    onnx.save(model, file)
    (folder / "labels.txt").write_text("\n".join(source.labels or []), encoding="utf-8")
    images = np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)
    images[0, 0, 0, 0] = first
    answers: NDArray[Any] = open_session(file, threads=1).run({"image": images})[0]
    save_golden(folder / "golden.npz", {"image": images}, {outputs: answers})
    rewrite(folder)
    return folder


def rewrite(folder: Path) -> None:
    """Make the manifest say what is in the folder now."""
    source = resolve("demo")
    file = folder / "model.onnx"
    manifest = msgspec.structs.replace(
        faster(),
        model=FileInfo(name=file.name, sha256=sha256_of(file), bytes=file.stat().st_size),
        preprocess=source.preprocess,
        labels=source.labels,
    )
    write(manifest, folder)
