"""How the verbs that change a graph show what they changed and what they skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ranksmith.cli.output import show, table
from ranksmith.results import Change, PassReport

__all__ = ["show_pass"]

_ALIKE = 3
"""More nodes than this with the same change are one row."""


def show_pass(report: PassReport, output: Path, *, changes: Sequence[Change] | None = None) -> None:
    """The changes (`changes` where not all are of interest) and every skip with its reason, on stdout."""
    shown = report.changed if changes is None else changes
    if shown:
        show(table(("node", "changed"), _rows(shown)))
    if report.skipped:
        show(table(("node", "skipped because"), [(skip.node, skip.why) for skip in report.skipped]))
    show(f"{len(shown)} changed, {len(report.skipped)} skipped, written to {output}")


def _rows(changes: Sequence[Change]) -> list[tuple[str, str]]:
    alike = Counter(change.what for change in changes)
    rows = [
        (change.node, change.what) if alike[change.what] <= _ALIKE else (f"{alike[change.what]} nodes", change.what)
        for change in changes
    ]
    return list(dict.fromkeys(rows))
