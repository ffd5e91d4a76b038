"""`ranksmith expose`: intermediate values as outputs."""

from __future__ import annotations

from typing import Annotated

import typer

from ranksmith.cli.options import JsonOption, ModelArgument, OutputOption, OverwriteOption

__all__ = ["expose"]


def expose(
    model: ModelArgument,
    value: Annotated[
        list[str],
        typer.Option("--value", metavar="NAME", help="A value by its name; may be repeated.", show_default=False),
    ],
    output: OutputOption,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make intermediate values outputs of the model, with their types and shapes, beside those it has."""
    from ranksmith.cli.output import make_progress, print_json
    from ranksmith.cli.passes import show_pass
    from ranksmith.files import check_output
    from ranksmith.graph import io
    from ranksmith.graph.expose import expose as expose_values
    from ranksmith.workflow.source import resolve

    check_output(output, overwrite=overwrite)
    source = resolve(model, progress=make_progress())
    graph = io.load(source.path)
    report = expose_values(graph, value)
    io.save(graph, output, overwrite=overwrite)
    if as_json:
        print_json(report)
    else:
        show_pass(report, output)
