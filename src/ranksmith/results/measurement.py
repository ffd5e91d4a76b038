"""Comparing, evaluating and timing models, and what a machine can run."""

from __future__ import annotations

import msgspec

from ranksmith.results.common import Interval, Machine, Preprocess

__all__ = [
    "Bench",
    "BenchEntry",
    "Comparison",
    "Doctor",
    "Evaluation",
    "EvaluationLatency",
    "LatencySummary",
    "OutputDifference",
    "ProviderStatus",
    "Speedup",
]


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
