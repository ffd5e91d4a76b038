"""How long-running work tells what it is doing, without knowing who listens.

The command line listens with Rich (`ranksmith.cli.output`); a library caller gets `Silent`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Advance", "Progress", "Silent"]

Advance = Callable[[int], None]
"""Call with the number of steps done since the last call."""


class Progress(Protocol):
    """Told of stages, notes and warnings."""

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Enter a stage of `total` steps (None: unknown): `with progress.stage(...) as advance:`."""
        ...

    def note(self, text: str) -> None:
        """Something worth knowing, in one line."""
        ...

    def warn(self, text: str) -> None:
        """Something that may surprise the user, in one line."""
        ...


class Silent:
    """A `Progress` that says nothing and remembers its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda steps: None

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        self.warnings.append(text)
