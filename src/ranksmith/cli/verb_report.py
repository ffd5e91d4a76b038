"""`ranksmith report BUNDLE`: the report again, or one layer's story, from the manifest alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranksmith.cli.options import JsonOption

__all__ = ["report"]


def report(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's directory.", show_default=False)],
    node: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="NODE",
            help="Print the story of one Conv instead: what was considered, what was decided and why.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild report.html and report/ of a bundle from its manifest.json, and print the page's path.

    Nothing is measured; the same manifest gives the same page.
    """
    from ranksmith.bundle.manifest import read
    from ranksmith.cli.output import make_progress, print_json, show
    from ranksmith.errors import BundleError, UsageError

    if as_json and node is None:
        raise UsageError("--json goes with --explain NODE", hint="the numbers of the report are in manifest.json")
    if bundle.is_file():
        raise BundleError(f"{bundle} is a file; a bundle is a directory", hint="give the directory that holds it")
    manifest = read(bundle)
    if node is not None:
        from ranksmith.report.explain import explain, layer_named
        from ranksmith.results import Explanation

        if as_json:
            print_json(Explanation(model=manifest.source.name, layer=layer_named(manifest, node)))
        else:
            show(explain(manifest, node))
        return
    from ranksmith.report.page import write_report

    with make_progress().stage("Drawing the report"):
        page = write_report(manifest, bundle)
    show(str(page))
