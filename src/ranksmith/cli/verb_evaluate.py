"""`ranksmith evaluate`: accuracy, latency and throughput of a model on images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ranksmith.cli.options import (
    BatchOption,
    DataOption,
    DevkitOption,
    JsonOption,
    LabelsOption,
    ModelArgument,
    PreprocessOption,
    ProviderOption,
    SeedOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ranksmith.results import Evaluation, Interval, LatencySummary

__all__ = ["evaluate"]


def evaluate(
    model: ModelArgument,
    data: DataOption = None,
    labels: LabelsOption = None,
    devkit: DevkitOption = None,
    preprocess: PreprocessOption = None,
    batch: BatchOption = 1,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "--images", metavar="N", min=1, help="Use N images at random.", show_default=False),
    ] = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure top-1, top-5, latency and throughput of a model on images.

    Latency is that of the model alone and from encoded image to answer, per batch; throughput is images a second
    with decoding in parallel. Intervals are bootstrap 95 % intervals.
    """
    from ranksmith.cli.output import make_progress, print_json, show
    from ranksmith.measure.evaluate import evaluate as measure
    from ranksmith.runtime.session import fixed_batch, open_session
    from ranksmith.workflow.inputs import open_inputs
    from ranksmith.workflow.source import resolve

    progress = make_progress()
    source = resolve(model, progress=progress)
    inputs = open_inputs(source, data=data, labels=labels, devkit=devkit, preprocess=preprocess, progress=progress)
    session = open_session(source.path, provider=provider, threads=threads)
    fixed = fixed_batch(session)
    if fixed is not None and fixed != batch:
        progress.note(f"{source.name}: its batch is fixed to {fixed}, so --batch {fixed} is used")
        batch = fixed
    result = measure(
        session,
        inputs.dataset,
        inputs.preprocess,
        batch=batch,
        limit=limit,
        seed=seed,
        name=source.name,
        progress=progress,
    )
    if as_json:
        print_json(result)
    else:
        show(_table(result))
        if result.top1 is None:
            show("no labels, so no accuracy: `ranksmith compare` tells the agreement with another model")


def _table(result: Evaluation) -> Table:
    from ranksmith.cli.output import table

    rows = [
        ("images", f"{result.images}" + (f" ({result.skipped} unreadable, skipped)" if result.skipped else "")),
        ("top-1", _share(result.top1, result.top1_ci95)),
        ("top-5", _share(result.top5, result.top5_ci95)),
        ("model alone", _latency(result.latency_ms.model)),
        ("end to end", _latency(result.latency_ms.end_to_end)),
        ("throughput", f"{result.throughput:.1f} images/s"),
        ("run as", f"batch {result.batch}, {result.provider}, {result.threads} threads, {result.preprocess.name}"),
    ]
    return table((result.model, result.data), [row for row in rows if row[1] is not None])


def _share(value: float | None, interval: Interval | None) -> str | None:
    if value is None or interval is None:
        return None
    return f"{100 * value:.2f} %   [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"


def _latency(latency: LatencySummary) -> str:
    return f"{latency.p50:.2f} ms   p90 {latency.p90:.2f}   p99 {latency.p99:.2f}   mean {latency.mean:.2f}"
