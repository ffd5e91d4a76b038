"""`ranksmith sweep`: the error at every rank of one Conv."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from ranksmith.cli.options import (
    BatchOption,
    DataOption,
    DevkitOption,
    ImagesOption,
    JsonOption,
    LabelsOption,
    ModelArgument,
    OutputOption,
    OverwriteOption,
    PreprocessOption,
    ProviderOption,
    SeedOption,
    ThreadsOption,
)
from ranksmith.errors import RankError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from ranksmith.results import SweepReport

__all__ = ["parse_ranks", "sweep"]

_MOST_RANKS = 100_000
_MOST_ROWS = 16


def sweep(
    model: ModelArgument,
    output: OutputOption,
    node: Annotated[str, typer.Option("--node", metavar="NODE", help="The Conv, by its name.", show_default=False)],
    ranks: Annotated[
        str,
        typer.Option("--ranks", metavar="A:B[:S]", help="Ranks A, A+S, … up to and with B.", show_default=False),
    ],
    data: DataOption = None,
    labels: LabelsOption = None,
    devkit: DevkitOption = None,
    preprocess: PreprocessOption = None,
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="The kind of decomposition.")] = "output-pca",
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            min=0.0,
            max=1.0,
            help="In the clipped relative error, smaller magnitudes count as this fraction of the largest.",
        ),
    ] = 0.005,
    images: ImagesOption = None,
    batch: BatchOption = 8,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the error of the model's output and of the layer for every rank of one Conv.

    Writes sweep.svg, sweep.csv and sweep.json into the directory given by --output, and tells the best rank by
    each error among those that make the layer cheaper.
    """
    from ranksmith.files import atomic_directory, check_output

    wanted = parse_ranks(ranks)
    check_output(output, overwrite=overwrite)

    from ranksmith.cli.output import make_progress, print_json, show
    from ranksmith.lowrank.factor import KINDS
    from ranksmith.report.figure_sweep import sweep_svg
    from ranksmith.report.tables import sweep_table
    from ranksmith.results import to_json
    from ranksmith.runtime.session import default_threads
    from ranksmith.workflow.inputs import open_inputs
    from ranksmith.workflow.source import resolve
    from ranksmith.workflow.sweep import run

    if kind not in KINDS:
        raise UsageError(f"no kind {kind!r} of decomposition", hint=f"choose one of {', '.join(KINDS)}")
    progress = make_progress()
    source = resolve(model, progress=progress)
    inputs = open_inputs(source, data=data, labels=labels, devkit=devkit, preprocess=preprocess, progress=progress)
    result = run(
        source,
        inputs.dataset,
        inputs.preprocess,
        node=node,
        ranks=wanted,
        kind=kind,
        threshold=threshold,
        limit=images,
        seed=seed,
        threads=threads or default_threads(),
        batch=batch,
        provider=provider,
        progress=progress,
    )
    with progress.stage("Drawing"), atomic_directory(output, overwrite=overwrite) as folder:
        (folder / "sweep.svg").write_text(sweep_svg(result), encoding="utf-8")
        (folder / "sweep.csv").write_text(sweep_table(result), encoding="utf-8")
        (folder / "sweep.json").write_text(to_json(result) + "\n", encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        show(_table(result))
        show(_best(result))
        show(f"{output / 'sweep.svg'}")


def parse_ranks(text: str) -> list[int]:
    """`"16:64:16"` as `[16, 32, 48, 64]`, `"3:5"` as `[3, 4, 5]`, `"8"` as `[8]`.

    Raises:
        RankError: not of this form, a rank below 1, an end below the start, or a step below 1.
    """
    match = re.fullmatch(r"(\d+)(?::(\d+))?(?::(\d+))?", text.strip(), flags=re.ASCII)
    if match is None:
        raise RankError(f"--ranks {text!r} is not a range of ranks", hint="A:B[:S], for example --ranks 16:512:16")
    start, end, step = (int(part) if part is not None else None for part in match.groups())
    assert start is not None
    end, step = start if end is None else end, 1 if step is None else step
    if start < 1:
        raise RankError(f"--ranks {text}: a rank is at least 1, not {start}")
    if end < start:
        raise RankError(f"--ranks {text}: the last rank {end} lies below the first, {start}")
    if step < 1:
        raise RankError(f"--ranks {text}: the step between ranks is at least 1, not {step}")
    if (end - start) // step >= _MOST_RANKS:
        raise RankError(f"--ranks {text}: more than {_MOST_RANKS:,} ranks", hint="give a larger step")
    return list(range(start, end + 1, step))


def _table(result: SweepReport) -> Table:
    from ranksmith.cli.output import table
    from ranksmith.report.text import sparkline

    points = result.points
    if len(points) > _MOST_ROWS:
        points = [points[round(index * (len(points) - 1) / (_MOST_ROWS - 1))] for index in range(_MOST_ROWS)]
    columns = ("rank", "MACs", "layer L2", "output L2", "clipped", "mean abs", "max abs")
    rows = [
        (
            point.rank,
            f"{point.macs_ratio:.0%}",
            f"{point.layer_relative_l2:.3%}",
            f"{point.output_relative_l2:.3%}",
            f"{point.output_clipped_relative:.3%}",
            f"{point.output_mean_abs:.3g}",
            f"{point.output_max_abs:.3g}",
        )
        for point in points
    ]
    line = sparkline([point.output_relative_l2 for point in result.points], 32)
    return table(columns, rows, title=f"{result.node}, {result.kind}: {line} output L2", right=columns)


def _best(result: SweepReport) -> str:
    if not result.best:
        return "none of these ranks makes the layer cheaper"
    ranks = list(result.best.values())
    usual = max(set(ranks), key=lambda rank: (ranks.count(rank), rank))
    others = [f"{rank} by {measure.replace('_', ' ')}" for measure, rank in result.best.items() if rank != usual]
    return f"best rank among those cheaper than the Conv: {'; '.join([str(usual), *others])}"
