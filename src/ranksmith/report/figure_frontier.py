"""The frontier: what each evaluated plan gains in speed and costs in accuracy, on the selection images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranksmith.report import text
from ranksmith.report.drawing import ACCENT, FAINT, GREY, INK, MUTED, WARM, axes, canvas, drawn
from ranksmith.results import FrontierPoint, Manifest

__all__ = ["frontier_svg"]

Measure = Callable[[FrontierPoint], float]
_UNTOUCHED = ("original", "folded")


@drawn
def frontier_svg(manifest: Manifest, *, narrow: bool = False) -> Figure:
    """Speedup against the loss, and against a second, finer scale of harm."""

    def lost(point: FrontierPoint) -> float:
        return point.selection_drop_pp

    def agreement(point: FrontierPoint) -> float:
        return 100 * point.selection_agreement

    def divergence(point: FrontierPoint) -> float:
        return point.selection_kl

    labelled = manifest.accuracy.labelled
    panels: list[tuple[str, Measure]] = [
        ("Top-1 lost, pp" if labelled else "Agreement lost, pp", lost),
        ("Same answer as the original, %", agreement) if labelled else ("KL from the original, nats", divergence),
    ]
    size, gap = (296.0, 230.0), 86.0
    if narrow:
        figure = canvas(350, 2 * (size[1] + gap))
        places = [(46.0, 32 + index * (size[1] + gap)) for index in range(2)]
    else:
        size = (430.0, 300.0)
        figure = canvas(1000, size[1] + gap)
        places = [(50.0, 32.0), (560.0, 32.0)]
    for (title, measure), place in zip(panels, places, strict=True):
        ax = axes(figure, *place, *size)
        ax.set_title(title)
        ax.set_xlabel("speedup over the original")
        if measure is lost:
            _budget(ax, manifest.max_drop_pp)
        _points(ax, manifest.frontier, measure)
        ax.xaxis.set_major_formatter(lambda value, _: text.ratio(value))
    return figure


def _budget(ax: Axes, budget_pp: float) -> None:
    ax.axhline(budget_pp, color=WARM, linewidth=1.2, linestyle=(0, (4, 3)))
    ax.annotate(
        f"asked for: at most {budget_pp:g} pp",
        (1.0, budget_pp),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        color=WARM,
        fontsize=11,
    )


def _points(ax: Axes, points: Sequence[FrontierPoint], measure: Measure) -> None:
    plans = sorted((point for point in points if point.name not in _UNTOUCHED), key=lambda point: point.speedup)
    ax.plot([point.speedup for point in plans], [measure(point) for point in plans], color=FAINT, linewidth=1.2)
    for point in points:
        colour = ACCENT if point.chosen else INK if point.name in _UNTOUCHED else MUTED
        if point.speedup_ci95 is not None:
            ax.plot(point.speedup_ci95, [measure(point)] * 2, color=colour, linewidth=2.0)
        ax.plot(
            point.speedup,
            measure(point),
            "s" if point.name in _UNTOUCHED else "o",
            markersize=11 if point.chosen else 6.5,
            markerfacecolor=colour if point.speedup_ci95 is not None else "none",
            markeredgecolor=colour,
            markeredgewidth=1.6,
            zorder=4 if point.chosen else 3,
        )
    # Room for the labels; a frontier of one point has no extent of its own.
    ax.margins(x=0.14, y=0.14)
    _label(ax, [point for point in points if point.name in _UNTOUCHED], measure)
    for point in points:
        if point.chosen and point.name not in _UNTOUCHED:
            _annotate(ax, f"chosen, {text.ratio(point.speedup)}", point, measure, colour=ACCENT)


def _label(ax: Axes, untouched: Sequence[FrontierPoint], measure: Measure) -> None:
    """Original and folded lie within a hair of each other: one label for both."""
    if not untouched:
        return
    names = " and ".join(point.name for point in untouched)
    if any(point.chosen for point in untouched):
        names += ", kept"
        _annotate(ax, names, untouched[-1], measure, colour=ACCENT)
    else:
        _annotate(ax, names, untouched[-1], measure, colour=GREY)


def _annotate(ax: Axes, label: str, point: FrontierPoint, measure: Measure, *, colour: str) -> None:
    low, high = ax.get_xlim()
    on_the_right = (point.speedup - low) > 0.6 * (high - low)
    bottom, top = ax.get_ylim()
    upper = (measure(point) - bottom) > 0.5 * (top - bottom)
    ax.annotate(
        label,
        (point.speedup, measure(point)),
        xytext=(-10 if on_the_right else 10, 12 if not upper else -20),
        textcoords="offset points",
        ha="right" if on_the_right else "left",
        color=MUTED if colour == GREY else colour,
        fontweight="bold" if colour == ACCENT else "normal",
        zorder=5,
    )
