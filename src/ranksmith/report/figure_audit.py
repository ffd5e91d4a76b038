"""Predicted against measured milliseconds: of single layers, and of whole models."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ranksmith.report.decisions import changed
from ranksmith.report.drawing import ACCENT, FAINT, SOFT, axes, canvas, drawn
from ranksmith.results import LayerRecord, PredictionAudit

__all__ = ["audit_svg", "prediction_svg"]

_BAND = 0.05
"""Relative error that the band around the diagonal shows."""

Pairs = Sequence[tuple[float, float]]


def audit_svg(layers: Sequence[LayerRecord], *, narrow: bool = False) -> str | None:
    """Of the Convs that were changed: filled where decomposed, hollow where only quantised. None without any."""
    audited = [
        (layer.rank is not None, (layer.predicted_ms, layer.measured_ms))
        for layer in layers
        if changed(layer) and layer.predicted_ms is not None and layer.measured_ms is not None
    ]
    if not audited:
        return None
    decomposed = [pair for has_rank, pair in audited if has_rank]
    quantised = [pair for has_rank, pair in audited if not has_rank]
    return _diagonal("Single Convs: measured ms", decomposed, quantised, band=False, narrow=narrow)


def prediction_svg(prediction: PredictionAudit | None, *, narrow: bool = False) -> str | None:
    """Of the whole models, with the band of 5 % around the diagonal. None where none was predicted."""
    if prediction is None or not prediction.predicted_ms:
        return None
    pairs = list(zip(prediction.predicted_ms, prediction.measured_ms, strict=True))
    return _diagonal("Whole models: measured ms", pairs, [], band=True, narrow=narrow)


@drawn
def _diagonal(title: str, filled: Pairs, hollow: Pairs, *, band: bool, narrow: bool) -> Figure:
    side = 288.0 if narrow else 380.0
    figure = canvas(side + 62, side + 76)
    ax = axes(figure, 52, 26, side, side)
    values = [value for pair in (*filled, *hollow) for value in pair]
    # Layers differ by orders of magnitude and begin at nothing; whole models lie close together.
    low = 0.9 * min(values) if band else 0.0
    high = 1.08 * max(values)
    if band:
        ax.fill_between(
            [low, high],
            [low * (1 - _BAND), high * (1 - _BAND)],
            [low * (1 + _BAND), high * (1 + _BAND)],
            color=SOFT,
            linewidth=0,
        )
    ax.plot([low, high], [low, high], color=FAINT, linewidth=1.5)
    for pairs, colour in ((filled, ACCENT), (hollow, "none")):
        if pairs:
            ax.plot(
                *zip(*pairs, strict=True),
                "o",
                markersize=7,
                markerfacecolor=colour,
                markeredgecolor=ACCENT,
                markeredgewidth=0 if colour == ACCENT else 1.2,
                alpha=0.75,
            )
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_title(title)
    ax.set_xlabel("predicted ms")
    ax.locator_params(nbins=5)
    return figure
