"""Latency of the original and of the result: how the times are distributed, and the ratio pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranksmith.report import text
from ranksmith.report.drawing import ACCENT, GREY, INK, MUTED, SOFT, axes, canvas, drawn
from ranksmith.results import LatencyPair

__all__ = ["latency_svg"]

Array = NDArray[Any]
_MOST_POINTS = 400
_GOLDEN_RATIO = 0.6180339887498949


@drawn
def latency_svg(pairs: Sequence[LatencyPair], *, narrow: bool = False) -> Figure:
    """A row a batch size: cumulative distribution of both times on the left, paired ratios on the right."""
    if narrow:
        tall = 404.0
        figure = canvas(350, tall * len(pairs))
        for row, pair in enumerate(pairs):
            _distribution(axes(figure, 42, 32 + row * tall, 300, 180), pair)
            _ratios(axes(figure, 42, 292 + row * tall, 300, 56), pair)
    else:
        tall = 270.0
        figure = canvas(1000, tall * len(pairs))
        for row, pair in enumerate(pairs):
            _distribution(axes(figure, 50, 32 + row * tall, 520, 180), pair)
            _ratios(axes(figure, 650, 32 + row * tall, 340, 180), pair)
    return figure


def _distribution(ax: Axes, pair: LatencyPair) -> None:
    baseline, result = np.sort(pair.baseline_ms), np.sort(pair.result_ms)
    both = np.concatenate([baseline, result])
    # One burst that another program delayed must not squeeze all others into a corner.
    limit = max(float(np.quantile(both, 0.99)) * 1.02, float(np.median(baseline)) * 1.05)
    beyond = int(np.sum(both > limit))
    for values, colour in ((baseline, GREY), (result, ACCENT)):
        shown = _thinned(values)
        ax.step(shown, np.linspace(0, 100, len(shown)), where="post", color=colour, linewidth=2.4)
        ax.axvline(float(np.median(values)), color=colour, linewidth=1.0, linestyle=(0, (2, 3)))
    ax.set_title(f"Batch {pair.batch}")
    ax.set_xlim(float(both.min()) * 0.98, limit)
    ax.set_ylim(0, 100)
    ax.set_yticks([0, 50, 100])
    ax.set_ylabel("% of bursts done", labelpad=2)
    late = f" ({beyond} later ones not shown)" if beyond else ""
    ax.set_xlabel(f"ms a batch{late}")
    _above(ax, f"original {text.milliseconds(float(np.median(baseline)))}", MUTED, 0)
    _above(ax, f"result {text.milliseconds(float(np.median(result)))}", ACCENT, -125)


def _above(ax: Axes, label: str, colour: str, shift: float) -> None:
    """A label on the line of the title, `shift` units left of the right edge."""
    ax.annotate(
        label,
        (1.0, 1.0),
        xycoords="axes fraction",
        xytext=(shift, 10),
        textcoords="offset points",
        ha="right",
        color=colour,
        fontweight="bold",
        fontsize=11,
    )


def _ratios(ax: Axes, pair: LatencyPair) -> None:
    ratios = np.asarray(pair.baseline_ms) / np.asarray(pair.result_ms)
    shown = _thinned(ratios)
    heights = (np.arange(len(shown)) * _GOLDEN_RATIO) % 1.0
    ax.axvspan(*pair.ci95, color=SOFT, linewidth=0)
    ax.plot(shown, heights, "o", markersize=4, markerfacecolor=ACCENT, markeredgewidth=0, alpha=0.45)
    ax.axvline(pair.ratio, color=ACCENT, linewidth=2.2)
    ax.axvline(1.0, color=INK, linewidth=1.2)
    low, high = (float(np.quantile(ratios, q)) for q in (0.01, 0.99))
    low, high = min(low, 1.0, pair.ci95[0]), max(high, 1.0, pair.ci95[1])
    room = max(0.12 * (high - low), 0.01)
    ax.set_xlim(low - room, high + room)
    ax.set_ylim(-0.08, 1.08)
    ax.set_yticks([])
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_title(f"{text.ratio(pair.ratio)}, 95 % interval {text.interval(*pair.ci95)}", color=ACCENT)
    ax.set_xlabel("original over result, pair by pair; 1 is no gain")
    ax.xaxis.set_major_formatter(lambda value, _: text.ratio(value))
    ax.locator_params(axis="x", nbins=5)


def _thinned(values: Array) -> Array:
    """Evenly chosen values, first and last among them, so that a long run does not make a huge file."""
    if len(values) <= _MOST_POINTS:
        return values
    chosen: Array = values[np.linspace(0, len(values) - 1, _MOST_POINTS).round().astype(int)]
    return chosen
