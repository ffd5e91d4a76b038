"""The one look of every figure: canvas, axes, colours, and SVG that is the same for the same numbers.

One SVG unit is one CSS pixel at the figure's natural width, and text stays text. Every colour is one of
a few named ones, safe for colour-blind readers; `themed` turns them into CSS variables, so that within a
page one figure serves the light and the dark theme. As a file of its own it keeps the colours of the light
one, on white.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["ACCENT", "FAINT", "GREY", "GRID", "INK", "MUTED", "SOFT", "WARM", "axes", "canvas", "drawn", "themed"]

INK = "#1d2228"
MUTED = "#5d6671"
GREY = "#9aa4ae"
FAINT = "#c9cfd5"
GRID = "#e6e9ec"
ACCENT = "#0b6e75"
SOFT = "#cde5e4"
WARM = "#b4541a"

_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GREY: "--grey",
    FAINT: "--faint",
    GRID: "--grid",
    ACCENT: "--accent",
    SOFT: "--soft",
    WARM: "--warm",
}

# Any: the type of the keys differs between versions of Matplotlib.
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ranksmith",
    "font.family": ["DejaVu Sans"],
    "font.size": 12.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12.0,
    "axes.linewidth": 1.0,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "axes.unicode_minus": True,
}

Parameters = ParamSpec("Parameters")


def canvas(width: float, height: float) -> Figure:
    """An empty figure of that many SVG units, transparent."""
    figure = Figure(figsize=(width / 72, height / 72))
    figure.patch.set_alpha(0.0)
    return figure


def axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes whose plotting area is that rectangle, in SVG units from the upper left corner."""
    whole_width, whole_height = figure.get_size_inches() * 72
    box = (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height)
    result = figure.add_axes(box)
    result.patch.set_alpha(0.0)
    return result


def drawn(draw: Callable[Parameters, Figure]) -> Callable[Parameters, str]:
    """Make a function that draws a figure return its SVG, drawn in the house style."""

    @functools.wraps(draw)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> str:
        with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
            # Names may hold letters that the measuring font lacks; the reader's own fonts show them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            return _svg(draw(*args, **kwargs))

    return wrapped


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", stream.getvalue(), flags=re.DOTALL)
    svg = re.sub(r' d="[^"]*"', _compact_path, svg)
    svg = svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    # White paper behind a file of its own; `themed` takes it out again.
    return re.sub(r"(<svg [^>]*)>", r'\1 style="background: #ffffff">', svg, count=1)


def _compact_path(match: re.Match[str]) -> str:
    """A path with a hundredth of a pixel, not a millionth: a third of the size."""
    rounded = re.sub(
        r"-?\d+\.\d+", lambda number: f"{float(number.group()):.2f}".rstrip("0").rstrip("."), match.group()
    )
    return re.sub(r"\s*([MLCQzZ])\s*", r"\1", rounded)


def themed(svg: str, name: str, description: str) -> str:
    """The figure as an element of a page: colours as CSS variables, ids of its own, a description for screen readers.

    Args:
        name: unique within the page; letters, digits and `-`.
        description: plain text, escaped by the caller.
    """
    view_box = re.search(r'viewBox="0 0 ([^ "]+) ([^ "]+)"', svg)
    assert view_box is not None
    width, height = view_box.groups()
    body = svg[svg.index("</defs>") + len("</defs>") :]

    def theme_tag(match: re.Match[str]) -> str:
        tag = re.sub(r'\bid="|url\(#|href="#', rf"\g<0>{name}-", match.group().replace("xlink:href", "href"))
        for colour, variable in _VARIABLES.items():
            tag = tag.replace(colour, f"var({variable})")
        return tag

    # Only tags: what stands between them is text, such as a node's name.
    body = re.sub(r"<[^>]*>", theme_tag, body)
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><").strip()
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{description}">{body}'
