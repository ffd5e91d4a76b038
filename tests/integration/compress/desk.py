"""A directory with a model and its images, to run `compress` in, and a listener that interrupts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from ranksmith.data.dataset import Dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.progress import Advance, Silent
from ranksmith.results import Manifest
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.compress.job import CompressOptions
from ranksmith.workflow.compress.run import compress
from ranksmith.workflow.inputs import Inputs
from ranksmith.workflow.source import ModelSource
from tests.models import save
from tests.unit.workflow.scene import (
    CLASSES,
    PREPROCESS,
    Array,
)

LABELS = [f"class {number}" for number in range(CLASSES)]
CALIBRATION = 40


class Listener(Silent):
    """Remembers everything that it is told; raises where it is asked to."""

    def __init__(self, *, interrupt_at: int | None = None, halfway: bool = False) -> None:
        super().__init__()
        self.stages: list[str] = []
        self.notes: list[str] = []
        self._interrupt_at = interrupt_at
        self._halfway = halfway

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        self.stages.append(title)
        due = len(self.stages) - 1 == self._interrupt_at
        if due and not self._halfway:
            raise KeyboardInterrupt

        def advance(steps: int) -> None:
            if due:
                raise KeyboardInterrupt

        yield advance

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def moments(self) -> list[int]:
        """The first stage of each sort, by its number: there are many plans to judge."""
        first: dict[str, int] = {}
        for number, title in enumerate(self.stages):
            first.setdefault(title.split()[0], number)
        return list(first.values())

    @property
    def gathered(self) -> bool:
        return any(title.startswith("Spectra") for title in self.stages)


class Counted(ArrayDataset):
    """Images that remember which of them were looked at."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[int] = []

    def read(self, index: int) -> Array:
        self.seen.append(index)
        return super().read(index)


@dataclass
class Desk:
    """A directory with a model, and images labelled by its answers."""

    folder: Path
    model: onnx.ModelProto
    data: Dataset
    calibration: Dataset | None = None
    labels: list[str] | None = None
    listener: Listener = field(default_factory=Listener)

    @property
    def source(self) -> ModelSource:
        path = self.folder / "model.onnx"
        return ModelSource(path=path if path.exists() else save(self.model, path), name="model")

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def compress(self, **options: Any) -> Manifest:
        given: dict[str, Any] = {"output": self.bundle, "objective": "macs", "max_drop_pp": 5.0}
        given |= {"calibration": CALIBRATION, "points": 6, "sensitivity": 8}
        return compress(
            self.source,
            Inputs(self.data, self.calibration, PREPROCESS, self.labels),
            CompressOptions(**(given | options)),
            progress=self.listener,
            cache=Cache(self.folder / "cache"),
        )

    def forget(self) -> None:
        """Empty the cache: another machine may answer otherwise."""
        shutil.rmtree(self.folder / "cache")

    def left(self) -> set[str]:
        """What lies beside the model, cache and data."""
        return {path.name for path in self.folder.iterdir()} - {"model.onnx", "cache", "data"}
