"""Result types: frozen, versioned, and each with exactly one JSON form.

A type that the command line prints with `--json` or that is written to disk carries its `schema`.
Intervals are `(low, high)` and 95 % unless named otherwise. Units stand in names: `_ms`, `_bytes`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import msgspec

__all__ = [
    "Accuracy",
    "BatchCost",
    "Bench",
    "BenchEntry",
    "Change",
    "Comparison",
    "ConvInfo",
    "Cost",
    "DataUse",
    "Doctor",
    "Evaluation",
    "EvaluationLatency",
    "FileInfo",
    "FrontierPoint",
    "Inspection",
    "LatencyPair",
    "LatencySummary",
    "LayerRecord",
    "Machine",
    "Manifest",
    "OutputDifference",
    "PassReport",
    "PlanEntry",
    "Preprocess",
    "ProviderStatus",
    "RankPlan",
    "Score",
    "Skip",
    "Spectrum",
    "SpectrumReport",
    "Speedup",
    "SweepPoint",
    "SweepReport",
    "ValueInfo",
    "from_json",
    "to_json",
]

Interval = tuple[float, float]


# --- the machine and the model -----------------------------------------------------------------


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where something was measured."""

    cpu: str
    flags: list[str]
    """Only the flags that change kernels: avx2, avx512f, avx512_vnni, avx512_bf16, amx_tile, …"""
    cores: int
    memory_bytes: int
    os: str
    python: str
    libraries: dict[str, str]


class ValueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A graph input or output. A symbolic dimension is its name."""

    name: str
    dtype: str
    shape: list[int | str] | None


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    sha256: str
    bytes: int


class Preprocess(msgspec.Struct, frozen=True, kw_only=True):
    """From a decoded RGB image (uint8, HWC) to the model's input (float32, CHW), as data.

    Steps, in order: scale so that the shorter side is `resize_shorter` (None: no scaling); crop the
    centre to `size`; if neither brings the image to `size`, scale to exactly `size`; subtract `mean` and
    divide by `std`, both on the 0..255 scale.
    """

    name: str
    size: tuple[int, int]
    """(height, width) of the model's input."""
    resize_shorter: int | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: Literal["RGB", "BGR"] = "RGB"


# --- passes over a graph -----------------------------------------------------------------------


class Change(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    what: str


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    why: str


class PassReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a transformation changed, and what it skipped and why."""

    schema: str = "ranksmith.pass/1"
    name: str
    changed: list[Change] = []
    skipped: list[Skip] = []


class ConvInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One Conv as `inspect` shows it."""

    node: str
    weight_shape: list[int]
    strides: list[int]
    pads: list[int]
    dilations: list[int]
    group: int
    input_shape: list[int | str] | None
    output_shape: list[int | str] | None
    macs: int | None
    """Multiply-adds for one image; None where the shape is unknown."""
    params: int
    full_rank: int
    break_even_rank: int
    """Below this rank an output-side pair has fewer multiply-adds than the Conv."""
    candidate: bool
    reason: str
    """Why it is not a candidate (`kept-stem`, `kept-depthwise`, …), or `candidate`."""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.inspection/1"
    model: str
    bytes: int
    opset: int
    inputs: list[ValueInfo]
    outputs: list[ValueInfo]
    nodes: int
    operators: dict[str, int]
    params: int
    macs: int | None
    convs: list[ConvInfo]


class PlanEntry(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    kind: str
    rank: int


class RankPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which node gets which kind and rank; `ranksmith decompose --plan` applies it."""

    schema: str = "ranksmith.plan/1"
    source_sha256: str | None = None
    layers: list[PlanEntry]


# --- comparing, evaluating, timing -------------------------------------------------------------


class OutputDifference(msgspec.Struct, frozen=True, kw_only=True):
    output: str
    max_abs: float
    mean_abs: float
    max_relative: float
    """Largest absolute difference over the largest magnitude of A's output."""
    relative_l2: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.comparison/1"
    a: str
    b: str
    images: int
    outputs: list[OutputDifference]
    agreement: float | None
    """Fraction of images whose top-1 class is the same; None where there is no class output."""
    kl: float | None
    """Mean Kullback-Leibler divergence of B's softmax from A's, in nats."""
    data: str


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    mean: float
    p50: float
    p90: float
    p99: float


class EvaluationLatency(msgspec.Struct, frozen=True, kw_only=True):
    model: LatencySummary
    end_to_end: LatencySummary


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.evaluation/1"
    model: str
    data: str
    images: int
    skipped: int
    top1: float | None
    top1_ci95: Interval | None
    top5: float | None
    top5_ci95: Interval | None
    latency_ms: EvaluationLatency
    """Per batch of `batch` images: the session alone, and from encoded image to answer."""
    throughput: float
    """Images a second, end to end, decoding in parallel with inference."""
    batch: int
    provider: str
    threads: int
    preprocess: Preprocess
    machine: Machine


class Speedup(msgspec.Struct, frozen=True, kw_only=True):
    """Time of the reference over time of the model: above 1 is faster."""

    ratio: float
    ci95: Interval


class BenchEntry(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    batch: int
    latency_ms: LatencySummary
    throughput: float
    speedup: Speedup
    samples: int


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.bench/1"
    provider: str
    threads: int
    seed: int
    results: list[BenchEntry]
    machine: Machine


class ProviderStatus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    available: bool
    detail: str
    hint: str | None = None


class Doctor(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.doctor/1"
    machine: Machine
    threads: int
    channel_block: int
    providers: list[ProviderStatus]
    optional: list[ProviderStatus]
    cache: str
    problems: list[str]


# --- spectra and sweeps ------------------------------------------------------------------------


class Spectrum(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative energy against rank of one Conv: entry i is the energy that rank i + 1 retains."""

    node: str
    output: list[float]
    """Of the covariance of the Conv's output (feature map) over the data."""
    weight: list[float]
    """Of the squared singular values of the weight as [O, I·kh·kw]."""


class SpectrumReport(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.spectrum/1"
    model: str
    data: str
    images: int
    spectra: list[Spectrum]


class SweepPoint(msgspec.Struct, frozen=True, kw_only=True):
    rank: int
    output_relative_l2: float
    output_clipped_relative: float
    output_mean_abs: float
    output_max_abs: float
    layer_relative_l2: float
    layer_clipped_relative: float
    layer_mean_abs: float
    layer_max_abs: float
    macs_ratio: float
    """Multiply-adds of the pair over those of the Conv."""


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.sweep/1"
    model: str
    node: str
    kind: str
    data: str
    images: int
    threshold: float
    """Magnitudes below this fraction of the largest are clipped to it in the relative error."""
    points: list[SweepPoint]
    best: dict[str, int]
    """The rank with the least of each error among those cheaper than the Conv."""


# --- the bundle --------------------------------------------------------------------------------


class Score(msgspec.Struct, frozen=True, kw_only=True):
    top1: float | None
    top1_ci95: Interval | None
    top5: float | None


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Measured on images that took no part in calibration, search or choice."""

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


class LatencyPair(msgspec.Struct, frozen=True, kw_only=True):
    """Paired, interleaved latencies of the original and the result at one batch size."""

    batch: int
    threads: int
    baseline_ms: list[float]
    result_ms: list[float]
    ratio: float
    ci95: Interval


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
    skipped: int


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One Conv's story: what was considered, what was decided and why."""

    node: str
    kind: str | None
    rank: int | None
    full_rank: int
    break_even_rank: int
    precision: str
    macs_before: int | None
    macs_after: int | None
    retained_energy: float | None
    predicted_ms: float | None
    """Of the layer as decided, from the latency table (measured in isolation, in context)."""
    measured_ms: float | None
    """Of the layer as decided: the dense time less what the whole model gained by this layer."""
    baseline_ms: float | None
    """Of the dense layer, in context."""
    reason: str
    """`decomposed`, `kept-slower`, `kept-sensitive`, `kept-depthwise`, `kept-stem`, …"""
    detail: str
    """The reason in a sentence."""


class FrontierPoint(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    plan: str | None
    """File under frontier/, None for the original and the folded model."""
    macs: int | None
    params: int
    speedup: float
    """Predicted or measured time of the original over this point's."""
    speedup_ci95: Interval | None
    """None where the speedup is predicted from the latency table."""
    selection_drop_pp: float
    selection_agreement: float
    selection_kl: float
    chosen: bool


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


T = TypeVar("T")


def to_json(result: Any, *, indent: int = 2) -> str:
    """One JSON document; NaN and infinity become null, as JSON has neither."""
    encoded = msgspec.json.encode(_finite(msgspec.to_builtins(result)))
    return msgspec.json.format(encoded, indent=indent).decode()


def from_json(text: str | bytes, kind: type[T]) -> T:
    """Parse `text` as `kind`.

    Raises:
        msgspec.ValidationError: a field is missing or of the wrong type (translated by the caller,
            who knows the file's name).
    """
    return msgspec.json.decode(text, type=kind)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
