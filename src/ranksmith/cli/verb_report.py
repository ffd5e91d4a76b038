"""`ranksmith report BUNDLE`: the report again, from the manifest alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's directory.", show_default=False)],
) -> None:
    """Rebuild report.html and report/ of a bundle from its manifest.json, and print the page's path.

    Nothing is measured; the same manifest gives the same page.
    """
    from ranksmith.bundle.manifest import read
    from ranksmith.cli.output import make_progress, show
    from ranksmith.errors import BundleError
    from ranksmith.report.page import write_report

    if bundle.is_file():
        raise BundleError(f"{bundle} is a file; a bundle is a directory", hint="give the directory that holds it")
    manifest = read(bundle)
    with make_progress().stage("Drawing the report"):
        page = write_report(manifest, bundle)
    show(str(page))
