"""Numbers and names as people read them. Node names come from untrusted models: they are made printable here
and escaped by whoever writes them (the template's autoescape, Matplotlib's SVG writer).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile

__all__ = [
    "DASH",
    "count",
    "duration",
    "file_size",
    "interval",
    "millinats",
    "milliseconds",
    "nats",
    "percent",
    "points",
    "printable",
    "ratio",
    "short_names",
    "shorten",
    "sparkline",
]

DASH = "–"
_MINUS = "\N{MINUS SIGN}"
_GLUE = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, which no line break may part."""


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
    return f"{_number(rounded, digits)}{_GLUE}%"


def points(value: float) -> str:
    """Percentage points."""
    return f"{_number(value, 2)}{_GLUE}pp"


def interval(low: float, high: float, digits: int = 2) -> str:
    """`1.35 to 1.37`."""
    return f"{_number(low, digits)} to {_number(high, digits)}"


def milliseconds(value: float | None) -> str:
    """About three significant digits."""
    if value is None:
        return DASH
    return f"{_number(value, 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3)}{_GLUE}ms"


def nats(value: float) -> str:
    """A divergence, with two digits where there is something to see."""
    if 0 < value < 1e-4:
        return "< 0.0001"
    return f"{value:#.2g}" if 0 < value < 10 else f"{value:.0f}"


def millinats(value: float | None) -> str:
    """A divergence in nats as thousandths: what one layer adds is small."""
    if value is None:
        return DASH
    digits = 0 if value == 0 else 3 if abs(value) < 1e-4 else 2 if abs(value) < 1e-2 else 1
    return f"{_number(1000 * value, digits)}{_GLUE}mnat"


def count(value: float | None) -> str:
    """`3857973248` as `3.86 G`."""
    if value is None:
        return DASH
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{_number(value / factor, 2 if value < 100 * factor else 0)}{_GLUE}{unit}"
    return _number(value, 0)


def file_size(value: int) -> str:
    """`102170216` as `102.2 MB`."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{_number(value / factor, 1)}{_GLUE}{unit}"
    return f"{value}{_GLUE}B"


def duration(seconds: float) -> str:
    """`131.6` as `2 min 12 s`."""
    if seconds < 10:
        return f"{_number(seconds, 1)}{_GLUE}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{_GLUE}min {rest:02d}{_GLUE}s" if minutes else f"{rest}{_GLUE}s"


def sparkline(values: Sequence[float], width: int, *, top: float | None = None) -> str:
    """A line of `width` block characters, from zero to `top` (the largest value)."""
    if not values:
        return ""
    highest = max(values) if top is None else top
    blocks = "▁▂▃▄▅▆▇█"
    chosen = [values[round(index * (len(values) - 1) / max(width - 1, 1))] for index in range(min(width, len(values)))]
    if len(values) <= width:
        chosen = list(values)
    return "".join(blocks[min(7, max(0, int(8 * value / highest)))] if highest > 0 else blocks[0] for value in chosen)


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
    """The names without what they all begin and end with, cut at a separator, each at most `length` long.

    Scopes that an exporter repeats go too: `layer1/layer1.0/conv1` is `layer1.0/conv1`.
    """
    shown = _distinct([printable(name) for name in names], _without_repeats)
    if len(shown) > 1 and len(set(shown)) == len(shown):
        start = _shared_start(shown)
        stripped = [name[start:] for name in shown]
        end = _shared_start([name[::-1] for name in stripped])
        stripped = [name[: len(name) - end] for name in stripped]
        if all(stripped):
            shown = stripped
    return [shorten(name, length) for name in shown]


def _distinct(names: list[str], change: Callable[[str], str]) -> list[str]:
    """Each name changed, unless that would make two of them alike."""
    changed = [change(name) for name in names]
    return changed if len(set(changed)) == len(set(names)) and all(changed) else names


def _without_repeats(name: str) -> str:
    parts = name.split("/")
    kept = [part for part, after in pairwise(parts) if not after.startswith(f"{part}.")]
    return "/".join([*kept, parts[-1]])


def _shared_start(names: Sequence[str]) -> int:
    """How many characters all names begin with, up to and with a separator."""
    common = "".join(chars[0] for chars in takewhile(lambda chars: len(set(chars)) == 1, zip(*names, strict=False)))
    separators = [match.end() for match in re.finditer(r"[/._:-]", common)]
    return separators[-1] if separators else 0
