"""A sweep: the errors of one Conv, and of the model's output, at every rank."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ranksmith.report import text
from ranksmith.report.drawing import ACCENT, GRID, MUTED, WARM, axes, canvas, drawn
from ranksmith.results import SweepReport

__all__ = ["sweep_svg"]

_SIZE, _CELL, _TOP = (400.0, 220.0), (500.0, 310.0), 70.0
_PANELS = (
    ("Model, relative error", ("output_relative_l2", "output_clipped_relative")),
    ("Layer, relative error", ("layer_relative_l2", "layer_clipped_relative")),
    ("Model, absolute error", ("output_mean_abs", "output_max_abs")),
    ("Layer, absolute error", ("layer_mean_abs", "layer_max_abs")),
)
_NAMES = {"relative_l2": "L2", "clipped_relative": "clipped", "mean_abs": "mean", "max_abs": "largest"}


@drawn
def sweep_svg(report: SweepReport) -> Figure:
    """Four panels over rank: relative and absolute errors, of the model's output and of the layer's.

    The best rank by each error among those that make the layer cheaper is marked; ranks that do not are shaded.
    """
    width, height = 2 * _CELL[0], 2 * _CELL[1] + _TOP
    figure = canvas(width, height)
    title = f"{text.printable(report.node)}: {report.kind}"
    figure.text(0.02, 1 - 26 / height, title, fontsize=15)
    subtitle = f"{text.printable(report.model)} on {report.images} images of {text.printable(report.data)}"
    figure.text(0.02, 1 - 47 / height, subtitle, color=MUTED)
    for index, (name, measures) in enumerate(_PANELS):
        left, top = (index % 2) * _CELL[0] + 66, (index // 2) * _CELL[1] + _TOP + 30
        ax = axes(figure, left, top, *_SIZE)
        ax.set_title(name)
        _panel(ax, report, measures)
    return figure


def _panel(ax: Axes, report: SweepReport, measures: tuple[str, str]) -> None:
    ranks = np.asarray([point.rank for point in report.points])
    dearer = ranks[np.asarray([point.macs_ratio >= 1 for point in report.points])]
    if len(dearer):
        ax.axvspan(float(dearer.min()), float(ranks.max()), color=GRID, linewidth=0)
        ax.annotate(
            "not cheaper",
            (float(ranks.max()), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-4, -13),
            textcoords="offset points",
            ha="right",
            color=MUTED,
            fontsize=10,
        )
    positive = False
    for line, (measure, colour) in enumerate(zip(measures, (ACCENT, WARM), strict=True)):
        errors = np.asarray([getattr(point, measure) for point in report.points], dtype=np.float64)
        positive = positive or bool((errors > 0).any())
        style = "o" if len(ranks) < 2 else "-" if line == 0 else (0, (5, 2))
        # An exact zero has no place on a logarithmic axis.
        if style == "o":
            ax.plot(ranks, errors, "o", color=colour)
        else:
            ax.plot(ranks, np.where(errors > 0, errors, np.nan), color=colour, linestyle=style)
        label = _NAMES[measure.split("_", 1)[1]]
        if measure in report.best:
            best = report.best[measure]
            ax.plot(best, errors[ranks == best], "o", color=colour, markersize=7, zorder=4)
            label += f", best at {best}"
        ax.annotate(
            label,
            (1.0, 1.0),
            xycoords="axes fraction",
            xytext=(-130 * (1 - line), 10),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=11,
        )
    if positive:
        ax.set_yscale("log")
        ax.grid(visible=True, which="major")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.set_xlabel("rank")
    ax.margins(x=0.02)
