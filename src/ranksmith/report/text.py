"""Numbers and names as people read them. Node names come from untrusted models: they are made printable here
and escaped by whoever writes them (the template's autoescape, Matplotlib's SVG writer).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

__all__ = [
    "DASH",
    "count",
    "duration",
    "file_size",
    "interval",
    "milliseconds",
    "percent",
    "points",
    "printable",
    "ratio",
    "short_names",
    "shorten",
]

DASH = "–"
_MINUS = "\N{MINUS SIGN}"


def _number(value: float, digits: int) -> str:
    # Rounding first: a value that rounds to zero has no sign.
    text = f"{round(value, digits) + 0.0:,.{digits}f}"
    return text.replace("-", _MINUS)


def ratio(value: float) -> str:
    """`1.3621` as `1.36×`."""
    return f"{_number(value, 2)}×"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; never `100.0 %` for what is less than all of it."""
    if value is None:
        return DASH
    rounded = round(100 * value, digits)
    if rounded >= 100 and value < 1:
        rounded = 100 - 10**-digits
    return f"{_number(rounded, digits)} %"


def points(value: float, *, signed: bool = False) -> str:
    """Percentage points."""
    text = _number(value, 2)
    return f"+{text} pp" if signed and round(value, 2) > 0 else f"{text} pp"


def interval(low: float, high: float, digits: int = 2, unit: str = "") -> str:
    """`1.35 to 1.37`, with the unit once."""
    return f"{_number(low, digits)} to {_number(high, digits)}{unit}"


def milliseconds(value: float | None) -> str:
    """About three significant digits."""
    if value is None:
        return DASH
    return f"{_number(value, 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3)} ms"


def count(value: float | None) -> str:
    """`3857973248` as `3.86 G`."""
    if value is None:
        return DASH
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{_number(value / factor, 2 if value < 100 * factor else 0)} {unit}"
    return _number(value, 0)


def file_size(value: int) -> str:
    """`102170216` as `102.2 MB`."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{_number(value / factor, 1)} {unit}"
    return f"{value} B"


def duration(seconds: float) -> str:
    """`131.6` as `2 min 12 s`."""
    if seconds < 10:
        return f"{_number(seconds, 1)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def printable(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the middle left out: both ends of a node's name tell it apart."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def short_names(names: Sequence[str], length: int) -> list[str]:
    """The names without what they all begin and end with, cut at a separator, each at most `length` long."""
    shown = [printable(name) for name in names]
    if len(shown) > 1 and len(set(shown)) == len(shown):
        start = _until_separator(os.path.commonprefix(shown))
        stripped = [name[start:] for name in shown]
        end = _until_separator(os.path.commonprefix([name[::-1] for name in stripped]))
        stripped = [name[: len(name) - end] for name in stripped]
        if all(stripped):
            shown = stripped
    return [shorten(name, length) for name in shown]


def _until_separator(common: str) -> int:
    separators = [match.end() for match in re.finditer(r"[/._:-]", common)]
    return separators[-1] if separators else 0
