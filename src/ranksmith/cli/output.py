"""What the command line prints: results on stdout; progress, notes, warnings and errors on stderr.

Bars are drawn only on a terminal; elsewhere each stage is one plain line when it starts and one when it ends.
`--quiet` leaves warnings and errors. Consoles are made per use, so that whatever stands at `sys.stdout` and
`sys.stderr` at that moment is what is written to. Rich is imported where it is used, as `--help` needs none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ranksmith.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["Verbosity", "human_bytes", "line", "make_progress", "print_json", "show", "table", "verbosity"]

_PIPE_WIDTH = 160
"""Columns of a table that is not read on a terminal: wide enough for long node names."""


@dataclass
class Verbosity:
    """How much is said; set once by `ranksmith.cli.app` from -v and -q."""

    verbose: bool = False
    quiet: bool = False


verbosity = Verbosity()


def line(label: str, text: str, *, style: str = "") -> None:
    """One `label: text` line on stderr, never wrapped and never interpreted as markup."""
    from rich.console import Console
    from rich.text import Text

    message = Text.assemble((f"{label}:", style), " ", text)
    Console(stderr=True, highlight=False).print(message, soft_wrap=True)


def print_json(result: Any) -> None:
    """The result as exactly one JSON document on stdout."""
    from ranksmith.results import to_json

    sys.stdout.write(to_json(result) + "\n")


def show(renderable: RenderableType) -> None:
    """A table or a text on stdout. A string is shown as it is, without markup."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    if isinstance(renderable, str):
        console.print(renderable, markup=False, soft_wrap=True)
    else:
        console.print(renderable)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None, right: Sequence[str] = ()
) -> Table:
    """A plain table for `show`; columns named in `right` are aligned to the right.

    A cell is shown as its `str`, never read as markup; a Rich `Text` keeps its style; None is an empty cell.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False, title_style="bold")
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        result.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return result


def human_bytes(count: int) -> str:
    """`102576593` as `102.6 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def make_progress() -> Progress:
    """The listener that suits this process: bars, plain lines, or warnings only."""
    if verbosity.quiet:
        return _Quiet()
    from ranksmith.cli.bars import RichProgress

    return RichProgress()


class _Quiet(Silent):
    """Warnings only."""

    def warn(self, text: str) -> None:
        super().warn(text)
        line("warning", text, style="bold yellow")
