"""`ranksmith fold`: Conv and BatchNormalization into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ranksmith.cli.options import JsonOption, ModelArgument, OutputOption, OverwriteOption, SeedOption, ThreadsOption
from ranksmith.errors import ModelError

if TYPE_CHECKING:
    import onnx_ir as ir

    from ranksmith.progress import Progress

__all__ = ["fold"]

_BATCHES = 3
_IMAGES = 2

_TOLERANCE = 1e-4
_HALF_TOLERANCE = 2e-2
"""float16 and bfloat16 round at every layer, in the original as in the folded model."""


def fold(
    model: ModelArgument,
    output: OutputOption,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the outputs with the original's before writing.")
    ] = True,
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fold every BatchNormalization into the Conv before it, and say which could not be and why."""
    from ranksmith.cli.output import make_progress, print_json
    from ranksmith.cli.passes import show_pass
    from ranksmith.files import check_output
    from ranksmith.graph import io
    from ranksmith.graph.fold import fold as fold_graph
    from ranksmith.workflow.source import resolve

    check_output(output, overwrite=overwrite)
    progress = make_progress()
    source = resolve(model, progress=progress)
    graph = io.load(source.path)
    report = fold_graph(graph)
    if verify:
        _certify(source.path, graph, threads, seed, progress)
    io.save(graph, output, overwrite=overwrite)
    if as_json:
        print_json(report)
    else:
        show_pass(report, output)


def _certify(original: Path, folded: ir.Model, threads: int | None, seed: int, progress: Progress) -> None:
    """Raise `ModelError` unless the folded model gives what the original gives."""
    from ranksmith.graph import io
    from ranksmith.measure.compare import compare
    from ranksmith.measure.latency import random_feeds
    from ranksmith.runtime.session import fixed_batch, open_session

    try:
        sessions = [open_session(model, threads=threads) for model in (original, io.to_bytes(folded))]
        batch = fixed_batch(sessions[0]) or _IMAGES
        feeds = (random_feeds(sessions[0], batch, seed + index) for index in range(_BATCHES))
        result = compare(sessions[0], sessions[1], feeds)
    except ModelError as error:
        raise ModelError(f"cannot compare with the original: {error.message}", hint="--no-verify skips that") from error
    worst = max((found.max_relative for found in result.outputs), default=0.0)
    # `not ≤` so that a NaN does not pass.
    if not worst <= _tolerance(folded):
        raise ModelError(
            f"{original}: the folded model's outputs differ from the original's by {worst:.1e} of the largest",
            hint="nothing was written; please report this model",
        )
    progress.note(f"outputs are the original's to within {worst:.1e} of the largest, on {result.images} random inputs")


def _tolerance(model: ir.Model) -> float:
    halves = {"FLOAT16", "BFLOAT16"}
    types = {value.dtype.name for value in model.graph.initializers.values() if value.dtype is not None}
    return _HALF_TOLERANCE if types & halves else _TOLERANCE
