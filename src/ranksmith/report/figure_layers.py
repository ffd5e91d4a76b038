"""The layers: what each cost before and after, and what was predicted."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranksmith.report import text
from ranksmith.report.decisions import changed, rank_words
from ranksmith.report.drawing import ACCENT, FAINT, GREY, INK, MUTED, SOFT, axes, canvas, drawn
from ranksmith.results import LayerRecord

__all__ = ["layers_svg"]

_MOST_ROWS = 80
_ROW = 17.0


def layers_svg(layers: Sequence[LayerRecord], *, narrow: bool = False) -> str | None:
    """A bar a Conv, in graph order: before and after, the prediction as a tick. None where no time is known."""
    timed = [layer for layer in layers if layer.baseline_ms is not None]
    return _layers(timed, narrow=narrow) if timed else None


@drawn
def _layers(layers: Sequence[LayerRecord], *, narrow: bool) -> Figure:
    left_out = max(0, len(layers) - _MOST_ROWS)
    if left_out:
        costliest = sorted(layers, key=lambda layer: -(layer.baseline_ms or 0.0))[:_MOST_ROWS]
        kept = {id(layer) for layer in costliest}
        layers = [layer for layer in layers if id(layer) in kept]
    width, left, right = (350.0, 112.0, 62.0) if narrow else (1000.0, 180.0, 205.0)
    figure = canvas(width, len(layers) * _ROW + 70)
    ax = axes(figure, left, 26, width - left - right, len(layers) * _ROW)
    for row, layer in enumerate(layers):
        _bars(ax, row, layer)
    ax.set_ylim(len(layers) - 0.5, -0.5)
    ax.set_xlim(0, 1.03 * max(_longest(layer) for layer in layers))
    names = text.short_names([layer.node for layer in layers], 16 if narrow else 26)
    ax.set_yticks(range(len(layers)), names, fontsize=10)
    for label, layer in zip(ax.get_yticklabels(), layers, strict=True):
        label.set_color(INK if changed(layer) else MUTED)
    for row, layer in enumerate(layers):
        ax.annotate(
            _note(layer, narrow=narrow),
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=ACCENT if changed(layer) else MUTED,
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
    """Light: before. Solid: after, as measured, only outlined where the shape is kept. Tick: after, as predicted."""
    assert layer.baseline_ms is not None
    if not changed(layer):
        ax.barh(row, layer.measured_ms or layer.baseline_ms, height=0.3, color=GREY, linewidth=0)
        return
    ax.barh(row, layer.baseline_ms, height=0.78, color=FAINT, linewidth=0)
    if layer.measured_ms is not None:
        colour = ACCENT if layer.rank is not None else SOFT
        ax.barh(row, layer.measured_ms, height=0.44, color=colour, edgecolor=ACCENT, linewidth=1.0)
    if layer.predicted_ms is not None:
        ax.plot([layer.predicted_ms] * 2, [row - 0.45, row + 0.45], color=INK, linewidth=1.8, solid_capstyle="butt")


def _longest(layer: LayerRecord) -> float:
    return max(value or 0.0 for value in (layer.baseline_ms, layer.measured_ms, layer.predicted_ms))


def _note(layer: LayerRecord, *, narrow: bool) -> str:
    if not changed(layer):
        return layer.reason.removeprefix("kept-")
    words = []
    if layer.rank is not None:
        words.append(rank_words(layer, of="/") if narrow else f"{layer.kind}, {rank_words(layer)}")
    if layer.precision == "int8" and not (narrow and words):
        words.append("int8")
    return " · ".join(words)
