"""The layers: what each cost before and after, and whether the prediction came true."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranksmith.report import text
from ranksmith.report.drawing import ACCENT, FAINT, GREY, INK, MUTED, axes, canvas, drawn
from ranksmith.results import LayerRecord

__all__ = ["audit_svg", "layers_svg"]

_MOST_ROWS = 80
_ROW = 17.0


def layers_svg(layers: Sequence[LayerRecord], *, narrow: bool = False) -> str | None:
    """A bar a Conv, in graph order: before and after, the prediction as a tick. None where no time is known."""
    timed = [layer for layer in layers if layer.baseline_ms is not None]
    return _layers(timed, narrow=narrow) if timed else None


def audit_svg(layers: Sequence[LayerRecord], *, narrow: bool = False) -> str | None:
    """Predicted against measured milliseconds of the decomposed Convs. None where there are none."""
    pairs = [
        (layer.predicted_ms, layer.measured_ms)
        for layer in layers
        if layer.rank is not None and layer.predicted_ms is not None and layer.measured_ms is not None
    ]
    return _audit(pairs, narrow=narrow) if pairs else None


@drawn
def _layers(layers: Sequence[LayerRecord], *, narrow: bool) -> Figure:
    left_out = max(0, len(layers) - _MOST_ROWS)
    if left_out:
        costliest = sorted(layers, key=lambda layer: -(layer.baseline_ms or 0.0))[:_MOST_ROWS]
        kept = {id(layer) for layer in costliest}
        layers = [layer for layer in layers if id(layer) in kept]
    width, left, right = (350.0, 112.0, 62.0) if narrow else (1000.0, 180.0, 170.0)
    figure = canvas(width, len(layers) * _ROW + 70)
    ax = axes(figure, left, 26, width - left - right, len(layers) * _ROW)
    for row, layer in enumerate(layers):
        _bars(ax, row, layer)
    ax.set_ylim(len(layers) - 0.5, -0.5)
    ax.set_xlim(0, 1.03 * max(_longest(layer) for layer in layers))
    names = text.short_names([layer.node for layer in layers], 16 if narrow else 26)
    ax.set_yticks(range(len(layers)), names, fontsize=10)
    for label, layer in zip(ax.get_yticklabels(), layers, strict=True):
        label.set_color(INK if layer.rank is not None else MUTED)
    for row, layer in enumerate(layers):
        ax.annotate(
            _note(layer, narrow=narrow),
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=ACCENT if layer.rank is not None else MUTED,
        )
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.xaxis.tick_top()
    ax.spines["bottom"].set_visible(False)
    ax.locator_params(axis="x", nbins=4 if narrow else 9)
    hidden = f"; the {_MOST_ROWS} costliest, {left_out} more in the table" if left_out else ""
    ax.set_xlabel(f"ms in the whole model{hidden}")
    ax.xaxis.set_label_position("bottom")
    return figure


def _bars(ax: Axes, row: int, layer: LayerRecord) -> None:
    """Light: before. Solid: after, as measured. Tick: after, as predicted."""
    assert layer.baseline_ms is not None
    if layer.rank is None:
        ax.barh(row, layer.measured_ms or layer.baseline_ms, height=0.3, color=GREY, linewidth=0)
        return
    ax.barh(row, layer.baseline_ms, height=0.78, color=FAINT, linewidth=0)
    if layer.measured_ms is not None:
        ax.barh(row, layer.measured_ms, height=0.44, color=ACCENT, linewidth=0)
    if layer.predicted_ms is not None:
        ax.plot([layer.predicted_ms] * 2, [row - 0.45, row + 0.45], color=INK, linewidth=1.8, solid_capstyle="butt")


def _longest(layer: LayerRecord) -> float:
    return max(value or 0.0 for value in (layer.baseline_ms, layer.measured_ms, layer.predicted_ms))


def _note(layer: LayerRecord, *, narrow: bool) -> str:
    if layer.rank is None:
        return layer.reason.removeprefix("kept-")
    return f"{layer.rank}/{layer.full_rank}" if narrow else f"{layer.kind}, {layer.rank} of {layer.full_rank}"


@drawn
def _audit(pairs: Sequence[tuple[float, float]], *, narrow: bool) -> Figure:
    side = 288.0 if narrow else 380.0
    figure = canvas(side + 62, side + 76)
    ax = axes(figure, 52, 26, side, side)
    limit = 1.08 * max(max(pair) for pair in pairs)
    ax.plot([0, limit], [0, limit], color=FAINT, linewidth=1.5)
    predicted, measured = zip(*pairs, strict=True)
    ax.plot(predicted, measured, "o", markersize=7, markerfacecolor=ACCENT, markeredgewidth=0, alpha=0.75)
    ax.set_xlim(0, limit)
    ax.set_ylim(0, limit)
    ax.set_title("Measured ms")
    ax.set_xlabel("predicted ms")
    ax.locator_params(nbins=5)
    return figure
