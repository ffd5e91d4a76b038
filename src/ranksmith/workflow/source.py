"""What MODEL may be on the command line: a path, a bundle, the word `demo`, or a zoo name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ranksmith.bundle import manifest as bundle_manifest
from ranksmith.data import preprocess as preprocessing
from ranksmith.errors import ModelError
from ranksmith.progress import Progress, Silent
from ranksmith.results import Preprocess
from ranksmith.zoo import catalogue, fetch

__all__ = ["ModelSource", "resolve"]


@dataclass(frozen=True)
class ModelSource:
    """A model file with what is known about it.

    Attributes:
        path: the ONNX file.
        name: what to call it in results.
        preprocess: how its images are prepared, where that is known.
        labels: one class a line, where known.
        data: images to judge it on, where they come with it (the demo model).
        calibration_data: images of its training set, where they come with it.
    """

    path: Path
    name: str
    preprocess: Preprocess | None = None
    labels: list[str] | None = None
    data: Path | None = None
    calibration_data: Path | None = None


def resolve(text: str, *, progress: Progress | None = None) -> ModelSource:
    """Find the model that `text` means; a zoo entry that is not in the cache is downloaded.

    Raises:
        ModelError: it is none of the four.
        BundleError: a directory that is not a bundle.
        FetchError: a zoo entry that cannot be downloaded.
    """
    path = Path(text)
    if text == "demo" and not path.exists():
        return _demo()
    if path.is_dir():
        return _bundle(path)
    if path.is_file():
        return ModelSource(path=path, name=path.stem)
    entry = catalogue.find(text)
    if entry is not None:
        file = fetch.fetch(entry.name, progress=progress or Silent())
        return ModelSource(path=file, name=file.stem, preprocess=preprocessing.PRESETS[entry.preprocess])
    raise ModelError(
        f"no model {text!r}: not a file, a bundle, `demo` or a zoo entry",
        hint="`ranksmith fetch --list` shows the zoo entries",
    )


def _demo() -> ModelSource:
    folder = Path(str(resources.files("ranksmith.demo")))
    return ModelSource(
        path=folder / "demo.onnx",
        name="demo",
        preprocess=preprocessing.PRESETS["cifar10"],
        labels=(folder / "labels.txt").read_text(encoding="utf-8").splitlines(),
        data=folder / "test.npz",
        calibration_data=folder / "calibration.npz",
    )


def _bundle(path: Path) -> ModelSource:
    manifest = bundle_manifest.read(path)
    return ModelSource(
        path=path / manifest.model.name, name=path.name, preprocess=manifest.preprocess, labels=manifest.labels
    )
