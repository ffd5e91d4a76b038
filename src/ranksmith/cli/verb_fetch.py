"""`ranksmith fetch`: a model of the ONNX Model Zoo into the cache."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["fetch"]


def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A zoo entry, with or without .onnx.", show_default=False)
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show the entries instead.")] = False,
) -> None:
    """Download a model from the ONNX Model Zoo into the cache and print its path.

    The file is checked by its sha256; an interrupted download goes on where it stopped. RANKSMITH_ZOO_URL points to
    a mirror, RANKSMITH_CACHE to another cache directory.
    """
    from ranksmith.cli.output import human_bytes, make_progress, show, table
    from ranksmith.errors import UsageError
    from ranksmith.zoo import catalogue
    from ranksmith.zoo.fetch import fetch as fetch_entry

    if show_list:
        rows = [(entry.name.removesuffix(".onnx"), human_bytes(entry.bytes), entry.sha256) for entry in catalogue.ZOO]
        show(table(("name", "size", "sha256"), rows, right=("size",)))
        return
    if name is None:
        raise UsageError("fetch needs a NAME", hint="`ranksmith fetch --list` shows the entries")
    show(str(fetch_entry(name, progress=make_progress())))
