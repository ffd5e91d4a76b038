"""`ranksmith compress MODEL --data D -o BUNDLE`: the main job."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ranksmith.cli import output as out
from ranksmith.cli.options import (
    BatchesOption,
    CalibrationOption,
    DataOption,
    DevkitOption,
    JsonOption,
    LabelsOption,
    ModelArgument,
    OutputOption,
    OverwriteOption,
    PreprocessOption,
    ProviderOption,
    SeedOption,
    ThreadsOption,
    parse_batches,
)

if TYPE_CHECKING:
    from ranksmith.results import Manifest

__all__ = ["compress"]


def compress(
    model: ModelArgument,
    output: OutputOption,
    data: DataOption = None,
    calibration_data: Annotated[
        Path | None,
        typer.Option(
            "--calibration-data",
            metavar="DATA",
            help="Calibrate on these images and judge on all of --data; by default --data is split.",
            show_default=False,
        ),
    ] = None,
    labels: LabelsOption = None,
    devkit: DevkitOption = None,
    preprocess: PreprocessOption = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", metavar="PP", min=0.0, help="Percentage points of top-1 that may be lost.")
    ] = 1.0,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement",
            metavar="PERCENT",
            min=0.0,
            max=100.0,
            help="Of the answers, how many must stay the original's. Default: 100 − 4 × --max-drop.",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        Literal["latency", "macs", "bytes"],
        typer.Option("--objective", metavar="latency|macs|bytes", help="What to save."),
    ] = "latency",
    precision: Annotated[
        Literal["auto", "fp32", "int8"],
        typer.Option(
            "--precision",
            metavar="auto|fp32|int8",
            help="Keep to floating point, quantize in any case, or take what is faster.",
        ),
    ] = "auto",
    kinds: Annotated[
        str,
        typer.Option("--kinds", metavar="KIND,…", help="Decompositions to choose from."),
    ] = "output-pca,input-side,spatial-vertical,spatial-horizontal",
    confidence: Annotated[
        float,
        typer.Option(
            "--confidence",
            metavar="P",
            min=0.0,
            max=0.999,
            help="How probable it must be, on the images that are chosen on, that these two are kept.",
        ),
    ] = 0.6,
    calibration: CalibrationOption = 128,
    batch: BatchesOption = "1,8",
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="NODE", help="Tell the story of this Conv at the end.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make MODEL faster on this machine at the accuracy asked for, prove it, and write a bundle.

    The bundle holds the model, a manifest of everything measured, golden outputs and a report. Where
    nothing pays it holds the folded original, and says so: that is a result, not an error.
    """
    from ranksmith.files import check_output

    check_output(output, overwrite=overwrite)
    batches = tuple(parse_batches(batch))

    from ranksmith.lowrank.factor import kind_named
    from ranksmith.runtime.session import default_threads
    from ranksmith.workflow.compress.job import CompressOptions
    from ranksmith.workflow.compress.run import compress as run
    from ranksmith.workflow.inputs import open_inputs
    from ranksmith.workflow.source import resolve

    progress = out.make_progress()
    source = resolve(model, progress=progress)
    inputs = open_inputs(
        source,
        data=data,
        calibration_data=calibration_data,
        labels=labels,
        devkit=devkit,
        preprocess=preprocess,
        progress=progress,
    )
    manifest = run(
        source,
        inputs,
        CompressOptions(
            output=output,
            max_drop_pp=max_drop,
            min_agreement=None if min_agreement is None else min_agreement / 100.0,
            objective=objective,
            precision=precision,
            kinds=tuple(kind_named(name.strip()).name for name in kinds.split(",")),
            confidence=confidence,
            provider=provider,
            threads=threads or default_threads(),
            batches=batches,
            calibration=calibration,
            seed=seed,
            overwrite=overwrite,
            command=shlex.join(["ranksmith", *sys.argv[1:]]),
        ),
        progress=progress,
    )
    if as_json:
        out.print_json(manifest)
    else:
        _show(manifest, output)
        if explain is not None:
            from ranksmith.report.explain import explain as tell

            out.show(f"\n{tell(manifest, explain)}")


def _show(manifest: Manifest, folder: Path) -> None:
    accuracy = manifest.accuracy
    if manifest.verdict == "faster":
        for pair in manifest.latency:
            low, high = pair.ci95
            out.show(
                f"{pair.ratio:.2f}x faster at batch {pair.batch} "
                f"(95 % interval {low:.2f} to {high:.2f}, {manifest.provider}, {pair.threads} threads)"
            )
    else:
        out.show("not made faster: the bundle holds the folded original; the report says why for each layer")
    what = "top-1" if accuracy.labelled else "agreement with the original"
    low, high = accuracy.drop_ci95_pp
    out.show(
        f"cost: {accuracy.drop_pp:+.2f} pp of {what} lost (95 % interval {low:+.2f} to {high:+.2f}) on "
        f"{accuracy.images} held-out images; {accuracy.agreement:.1%} of the answers are the original's"
    )
    if manifest.cost_before.macs and manifest.cost_after.macs:
        decomposed = sum(layer.reason == "decomposed" for layer in manifest.layers)
        quantized = sum(layer.precision == "int8" for layer in manifest.layers)
        out.show(
            f"{decomposed} of {len(manifest.layers)} Convs decomposed, {quantized} in int8; multiply-adds "
            f"{manifest.cost_before.macs / 1e6:,.0f} M to {manifest.cost_after.macs / 1e6:,.0f} M"
        )
    out.show(f"model:  {folder / manifest.model.name}")
    out.show(f"report: {folder / 'report.html'}")
