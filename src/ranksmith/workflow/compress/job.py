"""What the user asked for, and what every stage of `compress` needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.data.dataset import Dataset
from ranksmith.data.loader import Batch, load
from ranksmith.graph.query import ConvContext
from ranksmith.progress import Progress
from ranksmith.results import ConvInfo, Preprocess
from ranksmith.search.allocate import Objective
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.source import ModelSource

__all__ = ["CompressOptions", "ImageSet", "Job", "Prepared", "Stopwatch"]

# Preprocessed images of a set are kept in memory up to here, and read again for each model above it.
_KEEP_BYTES = 1 << 30


@dataclass(frozen=True)
class CompressOptions:
    """The choices of `ranksmith compress`.

    Attributes:
        output: the bundle's directory.
        max_drop_pp: percentage points of top-1 that may be lost (without labels: of agreement).
        confidence: how probable it must be, on the selection images, that the drop is within budget.
        objective: what to save: "latency", "macs" or "bytes".
        kinds: the decomposition kinds to choose from.
        provider, threads: what is measured, and with how many intra-op threads.
        batches: batch sizes of the final gate; the first is also that of the latency table.
        calibration: number of images to gather statistics on.
        selection, holdout: at most so many images to choose on, and to report accuracy on.
        points: number of plans between the mildest and the strongest.
        seed: of the split, the bootstrap and the order of the measurements.
        command: how to reproduce, as typed.
    """

    output: Path
    max_drop_pp: float = 1.0
    confidence: float = 0.8
    objective: Objective = "latency"
    kinds: tuple[str, ...] = ("output-pca",)
    provider: str = "cpu"
    threads: int = 1
    batches: tuple[int, ...] = (1, 8)
    calibration: int = 100
    selection: int = 1000
    holdout: int = 2000
    points: int = 24
    seed: int = 0
    overwrite: bool = False
    command: str = ""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Some images of a dataset, preprocessed; kept in memory when they are few.

    Attributes:
        role: what they are for, as it is said to the user.
        skipped: why images could not be read, as far as they were read.
    """

    dataset: Dataset
    indices: NDArray[np.integer[Any]]
    preprocess: Preprocess
    batch: int = 8
    role: str = "calibration"
    _kept: list[Batch] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def keys(self) -> list[str]:
        """The content key of each image; kept, because making them reads every file."""
        return [self.dataset.key(int(index)) for index in self.indices]

    def batches(self, warn: Callable[[str], None] | None = None) -> Iterator[Batch]:
        """The images, in order; `warn` is told once of each that cannot be read."""
        if self._kept:
            yield from self._kept
            return
        height, width = self.preprocess.size
        fits = len(self.indices) * 3 * height * width * 4 <= _KEEP_BYTES
        kept: list[Batch] = []
        read = load(self.dataset, self.indices, self.preprocess, batch=self.batch, skipped=self.skipped, warn=warn)
        for batch in read:
            if fits:
                kept.append(batch)
            yield batch
        self._kept.extend(kept)

    def recall_skipped(self, reasons: Sequence[str], warn: Callable[[str], None]) -> None:
        """Take over what an earlier run, whose result was cached, could not read."""
        for reason in reasons:
            if reason not in self.skipped:
                self.skipped.append(reason)
                warn(f"skipped: {reason}")


@dataclass
class Stopwatch:
    """Seconds spent by stage."""

    stages_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.stages_s[name] = self.stages_s.get(name, 0.0) + perf_counter() - started


@dataclass(frozen=True)
class Job:
    """The inputs of a run."""

    source: ModelSource
    dataset: Dataset
    calibration_dataset: Dataset | None
    preprocess: Preprocess
    labels: Sequence[str] | None
    options: CompressOptions
    progress: Progress
    cache: Cache
    clock: Stopwatch = field(default_factory=Stopwatch)


@dataclass(frozen=True)
class Prepared:
    """The folded model, its Convs, and which images do what.

    The held-out images come in parts: where they show that a choice was too bold, one part joins the images
    that are chosen on, and the others still took part in no choice.
    """

    folded: ir.Model
    folded_bytes: bytes
    source_sha256: str
    infos: list[ConvInfo]
    layers: dict[str, ConvLayer]
    contexts: dict[str, ConvContext]
    calibration: ImageSet
    calibration_sha256: str
    selection: ImageSet
    holdout: tuple[ImageSet, ...]
    warnings: list[str]

    @property
    def candidates(self) -> list[str]:
        return [info.node for info in self.infos if info.candidate]
