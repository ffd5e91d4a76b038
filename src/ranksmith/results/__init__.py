"""Result types: frozen, versioned, and each with exactly one JSON form.

A type that the command line prints with `--json` or that is written to disk carries its `schema`.
Intervals are `(low, high)` and 95 % unless named otherwise. Units stand in names: `_ms`, `_bytes`.
A field that a later version added has a default, so that what an earlier one wrote still parses.
"""

from __future__ import annotations

from ranksmith.results.bundle import (
    Accuracy,
    BatchCost,
    Cost,
    DataUse,
    LatencyPair,
    Manifest,
    PredictionAudit,
    ProviderLatency,
    Score,
)
from ranksmith.results.coding import from_json, to_json
from ranksmith.results.common import FileInfo, Interval, Machine, Preprocess, ValueInfo
from ranksmith.results.graph import Change, ConvInfo, Inspection, PassReport, Skip
from ranksmith.results.measurement import (
    Bench,
    BenchEntry,
    Comparison,
    Doctor,
    Evaluation,
    EvaluationLatency,
    LatencySummary,
    OutputDifference,
    ProviderStatus,
    Speedup,
)
from ranksmith.results.plan import (
    Explanation,
    Family,
    FrontierPoint,
    LayerRecord,
    OptionRecord,
    PlanEntry,
    Precision,
    RankPlan,
)
from ranksmith.results.quantize import QuantizeReport, RangeMethod
from ranksmith.results.spectra import Spectrum, SpectrumReport, SweepPoint, SweepReport

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
    "Explanation",
    "Family",
    "FileInfo",
    "FrontierPoint",
    "Inspection",
    "Interval",
    "LatencyPair",
    "LatencySummary",
    "LayerRecord",
    "Machine",
    "Manifest",
    "OptionRecord",
    "OutputDifference",
    "PassReport",
    "PlanEntry",
    "Precision",
    "PredictionAudit",
    "Preprocess",
    "ProviderLatency",
    "ProviderStatus",
    "QuantizeReport",
    "RangeMethod",
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
