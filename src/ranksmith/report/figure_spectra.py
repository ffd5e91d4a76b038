"""Spectra: how much of a Conv's energy each rank retains, and the error that is left.

Both are drawn against rank over full rank, so that layers of any width compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from ranksmith.report import text
from ranksmith.report.decisions import truncates_output
from ranksmith.report.drawing import ACCENT, FAINT, GREY, GRID, INK, MUTED, SOFT, WARM, axes, canvas, drawn
from ranksmith.results import LayerRecord, Manifest, Spectrum

__all__ = ["MARKS", "errors_svg", "rank_for", "spectra_svg", "spectrum_svg"]

MARKS = (0.90, 0.95, 0.99)
"""Retained energy whose rank is marked."""

Array = NDArray[Any]


def rank_for(energy: Sequence[float], target: float) -> int:
    """The least rank that retains `target` of the energy; full rank where rounding leaves it just below."""
    return min(int(np.searchsorted(np.asarray(energy), target)) + 1, len(energy))


def _curve(values: Sequence[float], most: int = 48) -> tuple[Array, Array]:
    """(rank over full rank, value) at about `most` ranks, denser where curves bend: at the low ranks."""
    full = len(values)
    ranks = np.unique(np.round(np.concatenate([np.geomspace(1, full, most), np.linspace(1, full, most)])).astype(int))
    return ranks / full, np.asarray(values, dtype=np.float64)[ranks - 1]


@drawn
def spectra_svg(manifest: Manifest, *, narrow: bool = False) -> Figure:
    """Small multiples in graph order: retained energy of the feature map (filled) and of the weight (dashed)."""
    layers = {layer.node: layer for layer in manifest.layers}
    columns, width, cell = (3, 350.0, (112.0, 92.0)) if narrow else (8, 1000.0, (124.0, 104.0))
    size, spectra = (cell[0] - 12, cell[1] - 34), manifest.spectra
    rows = -(-len(spectra) // columns)
    figure = canvas(width, rows * cell[1] + 4)
    # One axes for all cells: 53 of Matplotlib's own would take seconds and a megabyte.
    ax = axes(figure, 0, 0, width, rows * cell[1] + 4)
    ax.set_xlim(0, width)
    ax.set_ylim(rows * cell[1] + 4, 0)
    ax.set_axis_off()
    names = text.short_names([spectrum.node for spectrum in spectra], 15 if narrow else 18)
    for index, (name, spectrum) in enumerate(zip(names, spectra, strict=True)):
        left, top = (index % columns) * cell[0] + 5, (index // columns) * cell[1] + 22
        _cell(ax, left, top, size, name, spectrum, layers.get(spectrum.node))
    return figure


def _cell(
    ax: Axes,
    left: float,
    top: float,
    size: tuple[float, float],
    name: str,
    spectrum: Spectrum,
    layer: LayerRecord | None,
) -> None:
    width, height = size
    bottom = top + height
    decomposed = layer is not None and layer.rank is not None
    x, y = _curve(spectrum.output, 24)
    curve = (left + x * width, bottom - y * height)
    ax.fill([left + width, left, *curve[0]], [bottom, bottom, *curve[1]], color=SOFT if decomposed else GRID, lw=0)
    ax.plot(*curve, color=ACCENT if decomposed else GREY, linewidth=1.4)
    x, y = _curve(spectrum.weight, 16)
    ax.plot(left + x * width, bottom - y * height, color=WARM, linewidth=1.0, linestyle=(0, (3, 2)))
    ax.plot([left, left + width], [bottom, bottom], color=FAINT, linewidth=1.0)
    ax.text(left, top - 6, name, fontsize=10, color=INK if decomposed else MUTED)
    if layer is not None and layer.rank is not None:
        if truncates_output(layer):
            share = layer.rank / len(spectrum.output)
            height_there = bottom - spectrum.output[layer.rank - 1] * height
            ax.plot([left + share * width] * 2, [bottom, height_there], color=ACCENT, linewidth=1.2)
            ax.plot(left + share * width, height_there, "o", markersize=5, color=ACCENT)
        ax.text(left + width, bottom - 6, f"{layer.rank}", fontsize=10, color=ACCENT, ha="right", fontweight="bold")


@drawn
def errors_svg(manifest: Manifest, *, narrow: bool = False) -> Figure:
    """Rank against the relative error of the layer, all Convs in one figure; the decomposed ones stand out."""
    size = (290.0, 300.0) if narrow else (940.0, 380.0)
    figure = canvas(size[0] + 60, size[1] + 76)
    ax = axes(figure, 50, 28, *size)
    ranks = {layer.node: layer.rank for layer in manifest.layers if layer.rank is not None}
    marked = {layer.node for layer in manifest.layers if truncates_output(layer)}
    for node, errors in manifest.rank_errors.items():
        x, y = _curve(errors, 40)
        rank = ranks.get(node)
        # The last rank's error is zero, which a logarithmic axis does not have.
        ax.plot(
            x[y > 0],
            y[y > 0],
            color=FAINT if rank is None else ACCENT,
            linewidth=1.0,
            alpha=0.9 if rank is None else 0.55,
        )
        if rank is not None and node in marked and errors[rank - 1] > 0:
            ax.plot(rank / len(errors), errors[rank - 1], "o", markersize=6, color=ACCENT, zorder=5)
    ax.set_yscale("log")
    ax.set_ylim(0.005, 1.0)
    ax.set_xlim(0, 1)
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None, symbol=" %"))
    ax.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    ax.set_title("Relative error of the layer's output")
    ax.set_xlabel("rank, in % of full rank")
    return figure


@drawn
def spectrum_svg(spectra: Sequence[Spectrum], title: str) -> Figure:
    """A panel a Conv with axes of its own: retained energy against rank, with the ranks of 90, 95 and 99 %."""
    columns = min(4, len(spectra))
    rows = -(-len(spectra) // columns)
    size, cell = ((420.0, 260.0), (500.0, 350.0)) if len(spectra) <= 2 else ((240.0, 150.0), (310.0, 226.0))
    width, height = columns * cell[0], rows * cell[1] + 76
    figure = canvas(width, height)
    figure.text(20 / width, 1 - 26 / height, text.printable(title), fontsize=15)
    for start, label, colour in ((20, "— feature map", ACCENT), (130, "- - weight", WARM)):
        figure.text(start / width, 1 - 48 / height, label, color=colour)
    names = text.short_names([spectrum.node for spectrum in spectra], 30)
    for index, (name, spectrum) in enumerate(zip(names, spectra, strict=True)):
        left, top = (index % columns) * cell[0] + 52, (index // columns) * cell[1] + 98
        _panel(axes(figure, left, top, *size), name, spectrum)
    return figure


def _panel(ax: Axes, name: str, spectrum: Spectrum) -> None:
    full = len(spectrum.output)
    for energy, colour, style in ((spectrum.weight, WARM, (0, (4, 2))), (spectrum.output, ACCENT, "solid")):
        x, y = _curve(energy, 96)
        ax.plot(x * full, y, color=colour, linestyle=style, linewidth=1.8)
    for mark in MARKS:
        rank = rank_for(spectrum.output, mark)
        ax.plot(rank, spectrum.output[rank - 1], "o", markersize=5.5, color=ACCENT)
        ax.annotate(
            f"{text.percent(mark, 0)}: {rank}",
            (0.98, 0.30 - 0.115 * MARKS.index(mark)),
            xycoords="axes fraction",
            ha="right",
            color=ACCENT,
            fontsize=11,
        )
    ax.set_title(name)
    ax.set_xlim(0, full * 1.02)
    ax.set_ylim(0, 1.04)
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
    ax.set_yticks([0, 0.5, 1.0])
    ax.set_xlabel("rank")
    ax.locator_params(axis="x", nbins=5)
