"""What the user asked for, and what every stage of `compress` needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal

import onnx_ir as ir

from ranksmith.convolution import ConvLayer
from ranksmith.data.dataset import Dataset
from ranksmith.graph.query import ConvContext
from ranksmith.progress import Progress
from ranksmith.results import ConvInfo, Preprocess
from ranksmith.search.allocate import Objective
from ranksmith.search.evidence import Budget
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.images import ImageSet
from ranksmith.workflow.source import ModelSource

__all__ = ["DEFAULT_KINDS", "CompressOptions", "Job", "PrecisionChoice", "Prepared", "Stopwatch"]

PrecisionChoice = Literal["auto", "fp32", "int8"]

# Of the flips of decomposed classifiers 26 in 40 are lost and 14 gained (`search.evidence`), 3.3 for each that is lost
# in all; and some answers change that were wrong before and are after.
_CHANGED_PER_LOST = 4.0

DEFAULT_KINDS = ("output-pca", "input-side", "spatial-vertical", "spatial-horizontal")
"""Weight SVD knows no data, and Tucker-2 was never the best of the fitted kinds."""


@dataclass(frozen=True)
class CompressOptions:
    """The choices of `ranksmith compress`.

    Attributes:
        output: the bundle's directory.
        max_drop_pp: percentage points of top-1 that may be lost (without labels: of agreement).
        min_agreement: the least share of answers, 0 to 1, that stay the original's; None: four changed answers for
            every one that may be lost. Without labels `max_drop_pp` says it.
        confidence: how probable it must be, on the selection images, that the plan is within both.
        objective: what to save: "latency", "macs" or "bytes".
        precision: "fp32" keeps to floating point, "int8" quantizes in any case, "auto" takes what is faster.
        kinds: the decomposition kinds to choose from.
        weighted: fit factors to the model's answer, where its operators can be differentiated.
        rounds: alternating refinement rounds of fitted factors.
        repair: images that the last factors of a plan are fitted to once more; 0: none.
        sensitivity: images on which each layer's damage to the answer is measured; 0: layer errors stand in.
        provider, threads: what is measured, and with how many intra-op threads.
        batches: batch sizes of the final gate; the first is also that of the latency table.
        calibration: number of images to gather statistics on.
        selection, holdout: at most so many images to choose on beside those of calibration, and to report accuracy on.
        points: number of plans between the mildest and the strongest.
        seed: of the split, the bootstrap and the order of the measurements.
        command: how to reproduce, as typed.
    """

    output: Path
    max_drop_pp: float = 1.0
    min_agreement: float | None = None
    confidence: float = 0.6
    objective: Objective = "latency"
    precision: PrecisionChoice = "auto"
    kinds: tuple[str, ...] = DEFAULT_KINDS
    weighted: bool = True
    rounds: int = 0
    repair: int = 64
    sensitivity: int = 16
    provider: str = "cpu"
    threads: int = 1
    batches: tuple[int, ...] = (1, 8)
    calibration: int = 128
    selection: int = 1000
    holdout: int = 2000
    points: int = 48
    seed: int = 0
    overwrite: bool = False
    command: str = ""

    @property
    def least_agreement(self) -> float:
        """`min_agreement`, or what stands in for it."""
        if self.min_agreement is not None:
            return self.min_agreement
        return max(0.0, 1.0 - _CHANGED_PER_LOST * self.max_drop_pp / 100.0)


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

    @property
    def budget(self) -> Budget:
        """What may be lost."""
        options = self.options
        return Budget(options.max_drop_pp, options.least_agreement, labelled=self.dataset.labels is not None)


@dataclass(frozen=True)
class Prepared:
    """The folded model, its Convs, and which images do what."""

    folded: ir.Model
    folded_bytes: bytes
    source_sha256: str
    infos: list[ConvInfo]
    layers: dict[str, ConvLayer]
    contexts: dict[str, ConvContext]
    calibration: ImageSet
    calibration_sha256: str
    selection: ImageSet
    holdout: ImageSet
    warnings: list[str]

    @property
    def candidates(self) -> list[str]:
        return [info.node for info in self.infos if info.candidate]
