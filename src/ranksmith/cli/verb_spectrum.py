"""`ranksmith spectrum`: cumulative energy against rank of each Conv."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ranksmith.cli.options import (
    BatchOption,
    DataOption,
    DevkitOption,
    ImagesOption,
    JsonOption,
    LabelsOption,
    ModelArgument,
    NodesOption,
    OutputOption,
    OverwriteOption,
    PreprocessOption,
    SeedOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ranksmith.results import SpectrumReport

__all__ = ["spectrum"]


def spectrum(
    model: ModelArgument,
    output: OutputOption,
    data: DataOption = None,
    labels: LabelsOption = None,
    devkit: DevkitOption = None,
    preprocess: PreprocessOption = None,
    node: NodesOption = None,
    images: ImagesOption = None,
    batch: BatchOption = 8,
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show how much energy each rank retains, of every Conv's feature map over the images and of its weight.

    Writes spectrum.svg, spectrum.csv and spectrum.json into the directory given by --output. A feature map whose
    curve rises at once has room for a low rank.
    """
    from ranksmith.files import atomic_directory, check_output

    check_output(output, overwrite=overwrite)

    from ranksmith.cli.output import make_progress, print_json, show
    from ranksmith.report.figure_spectra import spectrum_svg
    from ranksmith.report.tables import spectrum_table
    from ranksmith.results import to_json
    from ranksmith.runtime.session import default_threads
    from ranksmith.workflow.inputs import open_inputs
    from ranksmith.workflow.source import resolve
    from ranksmith.workflow.spectrum import run

    progress = make_progress()
    source = resolve(model, progress=progress)
    inputs = open_inputs(source, data=data, labels=labels, devkit=devkit, preprocess=preprocess, progress=progress)
    result = run(
        source,
        inputs.dataset,
        inputs.preprocess,
        nodes=node or None,
        limit=images,
        seed=seed,
        threads=threads or default_threads(),
        batch=batch,
        progress=progress,
    )
    with progress.stage("Drawing"), atomic_directory(output, overwrite=overwrite) as folder:
        title = f"Retained energy by rank: {result.model}, {result.images} images of {result.data}"
        (folder / "spectrum.svg").write_text(spectrum_svg(result.spectra, title), encoding="utf-8")
        (folder / "spectrum.csv").write_text(spectrum_table(result), encoding="utf-8")
        (folder / "spectrum.json").write_text(to_json(result) + "\n", encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        show(_table(result))
        show(f"{output / 'spectrum.svg'}")


def _table(result: SpectrumReport) -> Table:
    from ranksmith.cli.output import table
    from ranksmith.report.figure_spectra import MARKS, rank_for
    from ranksmith.report.text import printable, sparkline

    marks = [f"{mark:.0%}" for mark in MARKS]
    rows = [
        (
            printable(spectrum.node),
            len(spectrum.output),
            *(rank_for(spectrum.output, mark) for mark in MARKS),
            rank_for(spectrum.weight, MARKS[-1]),
            sparkline(spectrum.output, 16, top=1.0),
        )
        for spectrum in result.spectra
    ]
    weight = f"weight {marks[-1]}"
    return table(
        ("Conv", "full", *marks, weight, "retained energy"),
        rows,
        title=f"rank that retains this much energy, {result.images} images of {result.data}",
        right=("full", *marks, weight),
    )
