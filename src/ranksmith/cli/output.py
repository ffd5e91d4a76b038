"""What the command line prints: results on stdout; progress, notes, warnings and errors on stderr.

Bars are drawn only on a terminal; elsewhere each stage is one plain line when it starts and one when it ends.
`--quiet` leaves warnings and errors. Consoles are made per use, so that whatever stands at `sys.stdout` and
`sys.stderr` at that moment is what is written to.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from ranksmith.progress import Advance, Progress, Silent
from ranksmith.results import to_json

__all__ = [
    "RichProgress",
    "Verbosity",
    "human_bytes",
    "line",
    "make_progress",
    "print_json",
    "show",
    "table",
    "verbosity",
]

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
    message = Text.assemble((f"{label}:", style), " ", text)
    Console(stderr=True, highlight=False).print(message, soft_wrap=True)


def print_json(result: Any) -> None:
    """The result as exactly one JSON document on stdout."""
    sys.stdout.write(to_json(result) + "\n")


def show(renderable: RenderableType) -> None:
    """A table or a text on stdout. A string is shown as it is, without markup."""
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
    return _Quiet() if verbosity.quiet else RichProgress()


class _Quiet(Silent):
    """Warnings only."""

    def warn(self, text: str) -> None:
        super().warn(text)
        line("warning", text, style="bold yellow")


class RichProgress:
    """Tells of stages on stderr, with elapsed and remaining time. Stages may be nested."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bars: Bars | None = None
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """A bar on a terminal; elsewhere a line when the stage starts and one when it ends."""
        if self._console.is_terminal:
            with self._bar(title, total) as advance:
                yield advance
            return
        self._say(f"{title} …")
        start = time.monotonic()
        yield lambda steps: None
        self._say(f"{title}: done in {time.monotonic() - start:.1f} s")

    def note(self, text: str) -> None:
        self._say(text)

    def warn(self, text: str) -> None:
        self._say("warning:", text, style="bold yellow")

    def _say(self, *parts: str, style: str = "") -> None:
        message = Text.assemble((parts[0], style), *(f" {part}" for part in parts[1:]))
        # While bars are drawn, their own console is the one that can write above them.
        console = self._bars.console if self._bars is not None else self._console
        console.print(message, soft_wrap=True)

    @contextmanager
    def _bar(self, title: str, total: int | None) -> Iterator[Advance]:
        with self._lock:
            outermost = self._bars is None
            if self._bars is None:
                self._bars = Bars(
                    TextColumn("{task.description}", markup=False),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("left"),
                    TimeRemainingColumn(),
                    console=self._console,
                )
                self._bars.start()
            bars = self._bars
            task = bars.add_task(title, total=total)
        try:
            yield lambda steps: bars.advance(task, steps)
        finally:
            with self._lock:
                if outermost:
                    bars.stop()
                    self._bars = None
                else:
                    bars.remove_task(task)
