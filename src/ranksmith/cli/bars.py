"""Progress on stderr: a bar for each stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from ranksmith.progress import Advance

__all__ = ["RichProgress"]


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
