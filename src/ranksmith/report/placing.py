"""Where a label covers least of what a figure shows already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

__all__ = ["Box", "freest", "marker", "plotting_area", "stroke", "text_width"]

_MARKER, _LARGE_MARKER, _STROKE = 6.0, 10.0, 3.0
"""Half of what they take, in points."""


@dataclass(frozen=True)
class Box:
    """A rectangle in points from the lower left corner of the axes, as Matplotlib's `axes points`."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(across, 0.0) * max(up, 0.0)


def text_width(label: str, size: float, *, bold: bool = False) -> float:
    """In points."""
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), label, size=size, prop=font).get_extents().width)


def plotting_area(ax: Axes) -> Box:
    return Box(0.0, 0.0, ax.bbox.width * _points(ax), ax.bbox.height * _points(ax))


def marker(ax: Axes, x: float, y: float, *, large: bool = False) -> Box:
    """What a marker at that place of the data takes; the axes' limits must stand."""
    right, up = (ax.transData.transform((x, y)) - (ax.bbox.x0, ax.bbox.y0)) * _points(ax)
    half = _LARGE_MARKER if large else _MARKER
    return Box(right - half, up - half, right + half, up + half)


def stroke(ax: Axes, start: float, end: float, y: float) -> Box:
    """What a horizontal line between two places takes; the axes' limits must stand."""
    left, right = marker(ax, start, y), marker(ax, end, y)
    _, middle = left.centre
    return Box(left.centre[0], middle - _STROKE, right.centre[0], middle + _STROKE)


def freest(ax: Axes, places: Iterable[Box], taken: Sequence[Box]) -> Box:
    """The first of the places that covers least; reaching out of the axes counts as covering."""
    whole = plotting_area(ax)
    return min(places, key=lambda place: sum(map(place.overlap, taken)) + place.area - place.overlap(whole))


def _points(ax: Axes) -> float:
    """Points in a pixel."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return 72 / figure.dpi
