"""Derived figures of the sections on prediction and on providers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ranksmith.report.decisions import changed
from ranksmith.results import Interval, LayerRecord, Manifest

__all__ = ["LayerAudit", "ProviderRow", "layer_audit", "provider_rows"]


@dataclass(frozen=True)
class LayerAudit:
    """How predictions of single layers came out."""

    layers: int
    median_error: float
    """Median of |measured / predicted - 1|."""
    total: float
    """Measured over predicted, of the sum over these layers."""


@dataclass(frozen=True)
class ProviderRow:
    """One provider, with bar lengths in percent of the longest of all."""

    provider: str
    precision: str
    baseline_ms: float
    result_ms: float
    baseline_percent: float
    result_percent: float
    ratio: float
    ci95: Interval
    note: str | None
    target: bool
    """The provider that the model was compressed for."""


def layer_audit(layers: Sequence[LayerRecord]) -> LayerAudit | None:
    """Of the changed layers whose time is known both ways; None where there is none."""
    pairs = np.array(
        [
            (layer.predicted_ms, layer.measured_ms)
            for layer in layers
            if changed(layer) and layer.predicted_ms and layer.measured_ms is not None
        ]
    )
    if not len(pairs):
        return None
    predicted, measured = pairs.T
    return LayerAudit(
        len(pairs), float(np.median(np.abs(measured / predicted - 1))), float(measured.sum() / predicted.sum())
    )


def provider_rows(manifest: Manifest) -> list[ProviderRow]:
    """The provider compressed for, then the others, fastest result first; empty where no other was measured."""
    if not manifest.providers:
        return []
    rows = [
        (
            entry.provider,
            entry.precision,
            entry.baseline_ms,
            entry.result_ms,
            entry.ratio,
            entry.ci95,
            entry.note,
            False,
        )
        for entry in sorted(manifest.providers, key=lambda entry: (entry.result_ms, entry.provider))
    ]
    if manifest.latency:
        pair = manifest.latency[0]
        times = float(np.median(pair.baseline_ms)), float(np.median(pair.result_ms))
        rows.insert(0, (manifest.provider, manifest.precision, *times, pair.ratio, pair.ci95, None, True))
    longest = max(max(row[2], row[3]) for row in rows)
    return [ProviderRow(*row[:4], 100 * row[2] / longest, 100 * row[3] / longest, *row[4:]) for row in rows]
