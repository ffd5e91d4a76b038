"""The bundle's manifest: one compression with its evidence."""

from __future__ import annotations

from typing import Literal

import msgspec

from ranksmith.results.common import FileInfo, Interval, Machine, Preprocess, ValueInfo
from ranksmith.results.plan import FrontierPoint, LayerRecord
from ranksmith.results.spectra import Spectrum

__all__ = [
    "Accuracy",
    "BatchCost",
    "Cost",
    "DataUse",
    "LatencyPair",
    "Manifest",
    "PredictionAudit",
    "ProviderLatency",
    "Score",
]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    top1: float | None
    top1_ci95: Interval | None
    top5: float | None


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Measured on images that took no part in calibration or search."""

    images: int
    labelled: bool
    """False: agreement with the original stands in for accuracy."""
    baseline: Score
    result: Score
    drop_pp: float
    """Percentage points of top-1 lost (negative: gained); without labels, of agreement."""
    drop_ci95_pp: Interval
    agreement: float
    agreement_ci95: Interval
    kl: float
    note: str | None = None
    probability_within: float | None = None
    """That the true drop is within --max-drop, and the agreement not below --min-agreement."""
    choices_judged: int = 1
    """On these images, until one held; this one is the last, and the intervals allow for all."""


class LatencyPair(msgspec.Struct, frozen=True, kw_only=True):
    """Paired, interleaved latencies of the original and the result at one batch size."""

    batch: int
    threads: int
    baseline_ms: list[float]
    result_ms: list[float]
    ratio: float
    ci95: Interval


class PredictionAudit(msgspec.Struct, frozen=True, kw_only=True):
    """Whole-model latency of several plans: predicted from the latency table, against measured."""

    plans: int
    median_error: float
    """Median of |predicted / measured - 1|."""
    predicted_ms: list[float]
    measured_ms: list[float]
    """In the order of `predicted_ms`."""


class ProviderLatency(msgspec.Struct, frozen=True, kw_only=True):
    """The original and the result on another installed provider."""

    provider: str
    precision: str
    baseline_ms: float
    result_ms: float
    ratio: float
    """Time of the original on the provider compressed for, over the result's time on this one."""
    ci95: Interval
    note: str | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    macs: int | None
    params: int
    bytes: int


class DataUse(msgspec.Struct, frozen=True, kw_only=True):
    """Which images did what. The three sets are disjoint."""

    name: str
    calibration: int
    calibration_sha256: str
    selection: int
    holdout: int
    calibration_chooses: bool = False
    """Whether plans were compared on the calibration images as well as on those of `selection`."""
    skipped: int


class BatchCost(msgspec.Struct, frozen=True, kw_only=True):
    """Latency against batch size, latency_ms ≈ alpha + beta·batch: what the server starts from."""

    alpha_ms: float
    beta_ms: float
    batches: list[int]
    latency_ms: list[float]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    schema: Literal["ranksmith.bundle/1"] = "ranksmith.bundle/1"
    ranksmith: str
    command: str
    created: str
    """UTC, ISO 8601."""
    verdict: Literal["faster", "kept-original"]
    source: FileInfo
    model: FileInfo
    inputs: list[ValueInfo]
    outputs: list[ValueInfo]
    preprocess: Preprocess
    labels: list[str] | None
    machine: Machine
    provider: str
    threads: int
    precision: str
    """Of the model shipped: `fp32` or `int8`."""
    objective: str
    max_drop_pp: float
    seed: int
    data: DataUse
    accuracy: Accuracy
    latency: list[LatencyPair]
    cost_before: Cost
    cost_after: Cost
    layers: list[LayerRecord]
    spectra: list[Spectrum]
    rank_errors: dict[str, list[float]]
    """Per Conv, the layer's relative L2 error at rank 1, 2, … (closed form, √(1 − energy))."""
    frontier: list[FrontierPoint]
    batch_cost: BatchCost
    stages_s: dict[str, float]
    """Seconds each stage took."""
    warnings: list[str] = []
    files: list[FileInfo] = []
    """Every other file of the bundle but the report, by its path inside it; filled in when it is written."""
    min_agreement: float | None = None
    """The least share of answers, 0 to 1, that had to stay the original's."""
    asked_precision: str = "auto"
    prediction: PredictionAudit | None = None
    providers: list[ProviderLatency] = []
    notes: list[str] = []
    """What the run found out, in sentences: what repair bought, why a set of layers was reverted."""
