"""The frontier: what each evaluated plan gains in speed and costs in accuracy, on the selection images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ranksmith.report import text
from ranksmith.report.drawing import ACCENT, FAINT, INK, MUTED, WARM, axes, canvas, drawn
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
        # Labels go to the side that the frontier bends away from.
        _points(ax, manifest.frontier, measure, above=measure is agreement)
        ax.locator_params(nbins=5)
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


def _points(ax: Axes, points: Sequence[FrontierPoint], measure: Measure, *, above: bool) -> None:
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
            markerfacecolor=colour if point.speedup_ci95 is not None or point.name == "original" else "none",
            markeredgecolor=colour,
            markeredgewidth=1.6,
            zorder=4 if point.chosen else 3,
        )
    # Room for the labels; a frontier of one point has no extent of its own.
    ax.margins(x=0.14, y=0.14)
    untouched = [point for point in points if point.name in _UNTOUCHED]
    if untouched:
        # They lie within a hair of each other: one label for both.
        kept = any(point.chosen for point in untouched)
        names = " and ".join(point.name for point in untouched)
        _annotate(ax, f"{names}, kept" if kept else names, (untouched[-1].speedup, measure(untouched[-1])), above, kept)
    for point in points:
        if point.chosen and point.name not in _UNTOUCHED:
            _annotate(ax, f"chosen, {text.ratio(point.speedup)}", (point.speedup, measure(point)), above, True)


def _annotate(ax: Axes, label: str, place: tuple[float, float], above: bool, chosen: bool) -> None:
    low, high = ax.get_xlim()
    on_the_right = place[0] - low > 0.7 * (high - low)
    ax.annotate(
        label,
        place,
        xytext=(-8 if on_the_right else 8, 10 if above else -20),
        textcoords="offset points",
        ha="right" if on_the_right else "left",
        color=ACCENT if chosen else MUTED,
        fontweight="bold" if chosen else "normal",
        zorder=5,
    )
