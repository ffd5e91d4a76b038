"""`ranksmith doctor`: what this machine can do, what is missing and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ranksmith.cli.options import JsonOption

if TYPE_CHECKING:
    from ranksmith.results import Doctor

__all__ = ["doctor"]


def doctor(as_json: JsonOption = False) -> None:
    """Tell what this machine can do: providers, CPU features, threads; what is missing and how to get it."""
    from ranksmith.cli.output import print_json
    from ranksmith.runtime.doctor import examine

    result = examine()
    if as_json:
        print_json(result)
    else:
        _show(result)


def _show(result: Doctor) -> None:
    from ranksmith.cli.output import human_bytes, show, table

    here = result.machine
    libraries = ", ".join(f"{name} {version}" for name, version in here.libraries.items())
    rows = [
        ("CPU", here.cpu),
        ("features", " ".join(here.flags) or "none that matter"),
        ("cores, memory", f"{here.cores}, {human_bytes(here.memory_bytes)}"),
        ("threads by default", result.threads),
        ("ranks are multiples of", result.channel_block),
        ("system", f"{here.os}, Python {here.python}"),
        ("libraries", libraries),
        ("cache", result.cache),
    ]
    show(table(("machine", ""), rows))
    entries = [*result.providers, *result.optional]
    states = [(entry.name, "yes" if entry.available else "no", entry.detail, entry.hint) for entry in entries]
    show(table(("provider or extra", "here", "detail", "how to get it"), states))
    for problem in result.problems:
        show(f"problem: {problem}")
    if not result.problems:
        show("no problems found")
