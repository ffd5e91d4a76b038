"""The frontier: what each model that was judged gains in speed and costs in accuracy, on the selection images.

Teal is ours, grey is what it is compared with; every family has its own marker, filled where the speed was
measured. What lost far more than was asked for is an arrow at the edge, so that it does not flatten the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ranksmith.report import text
from ranksmith.report.drawing import ACCENT, MUTED, WARM, axes, canvas, drawn
from ranksmith.report.families import FAMILIES, UNTOUCHED, family
from ranksmith.report.placing import Box, freest, marker, plotting_area, stroke, text_width
from ranksmith.results import Family, FrontierPoint, Manifest

__all__ = ["frontier_svg", "off_scale"]

_BUDGETS_SHOWN = 6.0
"""A loss beyond so many times the budget is off the scale."""
_LOGARITHMIC_FROM = 2.2
"""Fastest over slowest, from which speedups are drawn on a logarithmic scale."""
_TICKS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)


@dataclass(frozen=True)
class _Panel:
    title: str
    value: Callable[[FrontierPoint], float]
    rising: bool
    """Up is better."""
    budget_pp: float | None = None


@drawn
def frontier_svg(manifest: Manifest, *, narrow: bool = False) -> Figure:
    """Speedup against the loss, and against a second, finer scale of harm."""
    labelled = manifest.accuracy.labelled
    fine = (
        _Panel("Same answer as the original, %", lambda point: 100 * point.selection_agreement, rising=True)
        if labelled
        else _Panel("KL from the original, nats", lambda point: point.selection_kl, rising=False)
    )
    loss = _Panel(
        "Top-1 lost, pp" if labelled else "Agreement lost, pp",
        lambda point: point.selection_drop_pp,
        rising=False,
        budget_pp=manifest.max_drop_pp,
    )
    present = [name for name in FAMILIES if any(family(point) == name for point in manifest.frontier)]
    size, gap = ((296.0, 230.0), 86.0) if narrow else ((430.0, 300.0), 86.0)
    columns = min(len(present), 3 if narrow else 6)
    legend_height = 24.0 * -(-len(present) // columns)
    if narrow:
        figure = canvas(350, 2 * (size[1] + gap) + legend_height)
        places = [(46.0, 32 + index * (size[1] + gap)) for index in range(2)]
    else:
        figure = canvas(1000, size[1] + gap + legend_height)
        places = [(50.0, 32.0), (560.0, 32.0)]
    far = off_scale(manifest)
    near = [point for point in manifest.frontier if point not in far]
    for panel, place in zip((loss, fine), places, strict=True):
        ax = axes(figure, *place, *size)
        ax.set_title(panel.title)
        ax.set_xlabel("speedup over the original")
        _scales(ax, panel, manifest.frontier, near)
        _points(ax, panel, manifest.frontier, near)
        _labels(ax, panel, near)
    figure.legend(
        handles=[_mark(name) for name in present],
        loc="lower left",
        bbox_to_anchor=(0.0 if narrow else 0.035, 0.0),
        ncols=columns,
        frameon=False,
        labelcolor=MUTED,
        fontsize=11,
        handletextpad=0.1,
        columnspacing=0.7 if narrow else 1.4,
        borderpad=0.2,
    )
    return figure


def off_scale(manifest: Manifest) -> list[FrontierPoint]:
    """The points that lost so much that they are drawn as arrows at the edge; never all of them."""
    limit_pp = max(_BUDGETS_SHOWN * manifest.max_drop_pp, 1.0)
    far = [point for point in manifest.frontier if point.selection_drop_pp > limit_pp and not point.chosen]
    return far if len(far) < len(manifest.frontier) else []


def _scales(ax: Axes, panel: _Panel, points: Sequence[FrontierPoint], near: Sequence[FrontierPoint]) -> None:
    """Limits with room for the labels; a frontier of one point has no extent of its own."""
    speeds = [speed for point in points for speed in (point.speedup, *(point.speedup_ci95 or ()))]
    slowest, fastest = min(speeds), max(speeds)
    if slowest > 0 and fastest / slowest > _LOGARITHMIC_FROM:
        ax.set_xscale("log")
        room = (fastest / slowest) ** 0.12
        ax.set_xlim(slowest / room, fastest * room)
        ax.set_xticks([tick for tick in _TICKS if slowest / room <= tick <= fastest * room])
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    else:
        gap = max(0.14 * (fastest - slowest), 0.01)
        ax.set_xlim(slowest - gap, fastest + gap)
        ax.locator_params(axis="x", nbins=5)
        ax.xaxis.set_major_formatter(lambda value, _: text.ratio(value))
    values = [panel.value(point) for point in near] + ([panel.budget_pp] if panel.budget_pp is not None else [])
    low, high = min(values), max(values)
    gap = max(0.14 * (high - low), 1e-6 if panel.value(points[0]) < 1 else 0.1)
    ax.set_ylim(low - gap, high + gap)
    ax.locator_params(axis="y", nbins=5)


def _points(ax: Axes, panel: _Panel, points: Sequence[FrontierPoint], near: Sequence[FrontierPoint]) -> None:
    for name, look in FAMILIES.items():
        members = sorted((point for point in near if family(point) == name), key=lambda point: point.speedup)
        if look.line is not None:
            speeds, values = [point.speedup for point in members], [panel.value(point) for point in members]
            ax.plot(speeds, values, color=look.line, linewidth=1.6, zorder=1)
    edge = 0.0 if panel.rising else 1.0
    for point in points:
        look = FAMILIES[family(point)]
        if point not in near:
            ax.plot(
                *(point.speedup, edge),
                "v" if panel.rising else "^",
                transform=ax.get_xaxis_transform(),
                clip_on=False,
                color=look.colour,
                markersize=5,
            )
            continue
        height = panel.value(point)
        if point.speedup_ci95 is not None:
            ax.plot(point.speedup_ci95, [height] * 2, color=look.colour, linewidth=2.0)
        if point.chosen:
            ax.plot(point.speedup, height, "o", markersize=17, markerfacecolor="none", markeredgecolor=ACCENT, zorder=4)
        measured = point.speedup_ci95 is not None or family(point) == "original"
        ax.plot(
            point.speedup,
            height,
            look.marker,
            markersize=9 if point.chosen else 6.5,
            markerfacecolor=look.colour if measured else "none",
            markeredgecolor=look.colour,
            markeredgewidth=1.5,
            zorder=4 if point.chosen else 3,
        )


def _mark(name: Family) -> Line2D:
    look = FAMILIES[name]
    return Line2D([], [], color=look.colour, marker=look.marker, markersize=6.5, linestyle="none", label=look.label)


def _labels(ax: Axes, panel: _Panel, near: Sequence[FrontierPoint]) -> None:
    """Of the budget, of what was chosen, and of the untouched models, which lie within a hair of each other.

    Each goes where it covers least of what is drawn: few points, but wherever a frontier happens to bend.
    """
    taken = [marker(ax, point.speedup, panel.value(point), large=point.chosen) for point in near]
    taken += [stroke(ax, *point.speedup_ci95, panel.value(point)) for point in near if point.speedup_ci95 is not None]
    if panel.budget_pp is not None:
        taken.append(stroke(ax, *ax.get_xlim(), panel.budget_pp))
    chosen = next((point for point in near if point.chosen and family(point) not in UNTOUCHED), None)
    if chosen is not None:
        taken.append(_beside(ax, f"chosen, {text.ratio(chosen.speedup)}", chosen, panel, taken, bold=True))
    untouched = [point for point in near if family(point) in UNTOUCHED]
    if untouched:
        kept = any(point.chosen for point in untouched)
        names = " and ".join(family(point) for point in untouched)
        taken.append(_beside(ax, f"{names}, kept" if kept else names, untouched[-1], panel, taken, bold=kept))
    if panel.budget_pp is not None:
        _budget(ax, panel.budget_pp, taken)


def _beside(ax: Axes, label: str, point: FrontierPoint, panel: _Panel, taken: Sequence[Box], *, bold: bool) -> Box:
    """Write the label at one of the corners of the point; the place it takes."""
    width = text_width(label, 12, bold=bold)
    around = marker(ax, point.speedup, panel.value(point), large=point.chosen)
    x, y = around.centre
    bottoms = [y - 22, y + 12, y - 38, y + 28]
    if panel.rising:
        bottoms = [y + 12, y - 22, y + 28, y - 38]
    lefts = (x + 11, x - 11 - width, x - width / 2)
    places = [Box(left, bottom, left + width, bottom + 12) for bottom in bottoms for left in lefts]
    best = freest(ax, places, [box for box in taken if box != around])
    ax.annotate(
        label,
        (best.left, best.bottom),
        xycoords="axes points",
        color=ACCENT if bold else MUTED,
        fontweight="bold" if bold else "normal",
        zorder=5,
    )
    return best


def _budget(ax: Axes, budget_pp: float, taken: Sequence[Box]) -> None:
    ax.axhline(budget_pp, color=WARM, linewidth=1.2, linestyle=(0, (4, 3)))
    label = f"asked for: at most {budget_pp:g} pp"
    whole, (_, height) = plotting_area(ax), marker(ax, 1.0, budget_pp).centre
    width = text_width(label, 11)
    # From right to left, above the line and then below it.
    lefts = [(whole.right - width) * eighths / 8 for eighths in range(8, -1, -1)]
    places = [Box(left, bottom, left + width, bottom + 11) for bottom in (height + 4, height - 14) for left in lefts]
    best = freest(ax, places, taken)
    ax.annotate(label, (best.left, best.bottom), xycoords="axes points", color=WARM, fontsize=11, zorder=5)
