"""Rank plans, and the story of how one came about: options, layers, frontier."""

from __future__ import annotations

from typing import Literal

import msgspec

from ranksmith.results.common import Interval

__all__ = [
    "Explanation",
    "Family",
    "FrontierPoint",
    "LayerRecord",
    "OptionRecord",
    "PlanEntry",
    "Precision",
    "RankPlan",
]

Precision = Literal["fp32", "int8"]
Family = Literal["original", "folded", "int8", "low-rank", "low-rank-int8", "uniform-svd"]


class PlanEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One Conv of a plan.

    Raises:
        ValueError: a kind without a rank or a rank without a kind (in a file: msgspec.ValidationError).
    """

    node: str
    kind: str | None = None
    """None: the Conv keeps its shape."""
    rank: int | None = None
    precision: Precision | None = None
    """None: the plan's."""

    def __post_init__(self) -> None:
        if (self.kind is None) != (self.rank is None):
            raise ValueError(f"{self.node}: kind and rank go together")


class RankPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which node gets which kind, rank and precision; `ranksmith decompose --plan` applies it."""

    schema: str = "ranksmith.plan/1"
    source_sha256: str | None = None
    layers: list[PlanEntry]
    precision: Precision = "fp32"
    """`int8`: every operator that can be is quantised (QDQ), save the entries with precision `fp32`."""
    ranges: str | None = None
    """How activation ranges were found: `minmax`, `percentile` or `entropy`; None without int8."""
    calibration: int | None = None
    """Images that the plan was made with, drawn by `seed`."""
    seed: int | None = None
    weighted: bool = False
    """Factors are fitted to the model's answer (Fisher weighting) rather than to each layer's own output."""
    rounds: int = 0
    """Alternating refinement rounds of the fitted factors."""
    repair: int = 0
    """Calibration images that the last factors are fitted to once more, in the decomposed model; 0: they are not."""


class OptionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was considered for a layer."""

    kind: str | None
    """None: the layer keeps its shape."""
    rank: int | None
    precision: str
    predicted_ms: float | None
    """From the latency table; None where it was not timed."""
    error: float
    """Predicted relative L2 error of the layer's output."""
    damage: float | None
    """Estimated Kullback-Leibler divergence, in nats, that it adds to the model's output."""
    verdict: str
    """`chosen`, `pays` (faster than the layer as it is), `slower`, or `dominated` (another is no slower and better)."""


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
    """`decomposed`, `quantized` (int8, shape kept), `kept-slower`, `kept-sensitive`, `kept-depthwise`, …"""
    detail: str
    """The reason in a sentence."""
    options: list[OptionRecord] = []
    """All that was considered, Pareto-optimal or not."""
    sensitivity: float | None = None
    """Nats of divergence of the model's output per unit of squared relative error of this layer's, measured
    on the logits; None where it was not measured."""
    damage: float | None = None
    """Estimated divergence, in nats, that the layer as decided adds to the model's output."""
    weighted: bool = False
    """Its factors were fitted to the model's output rather than to the layer's alone."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's story out of a bundle, as `ranksmith report --explain NODE --json` prints it."""

    schema: str = "ranksmith.explanation/1"
    model: str
    layer: LayerRecord


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
    family: Family = "low-rank"
    predicted_ms: float | None = None
    """Latency of the whole model from the latency table."""
    measured_ms: float | None = None
    probability: float | None = None
    """That it is truly within --max-drop and --min-agreement, from the selection images."""
