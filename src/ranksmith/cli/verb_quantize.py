"""`ranksmith quantize`: a model in int8, calibrated on images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ranksmith.cli.options import (
    CalibrationOption,
    DataOption,
    DevkitOption,
    JsonOption,
    LabelsOption,
    ModelArgument,
    OutputOption,
    OverwriteOption,
    PreprocessOption,
    SeedOption,
    ThreadsOption,
)
from ranksmith.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ranksmith.results import QuantizeReport

__all__ = ["quantize"]


def quantize(
    model: ModelArgument,
    output: OutputOption,
    data: DataOption = None,
    labels: LabelsOption = None,
    devkit: DevkitOption = None,
    preprocess: PreprocessOption = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="How the activations' ranges are chosen: minmax, percentile-99.999, percentile-99.99 or entropy; "
            "auto tries them all, percentile both percentiles.",
        ),
    ] = "auto",
    calibration: CalibrationOption = 100,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="NODE", help="A node that stays float; may be repeated.", show_default=False),
    ] = None,
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a model to int8 (QDQ, per channel), its ranges calibrated on images.

    BatchNormalization is folded first. Of the methods that choose ranges, the one whose answers are closest to the
    float model's on the calibration images is kept. `evaluate` and `bench` tell what it costs and gains.
    """
    from ranksmith.cli.output import make_progress, print_json
    from ranksmith.files import atomic_file, check_output
    from ranksmith.measure.ranges import METHODS
    from ranksmith.runtime.session import default_threads
    from ranksmith.workflow.inputs import open_inputs
    from ranksmith.workflow.quantize import quantize_model
    from ranksmith.workflow.source import resolve

    check_output(output, overwrite=overwrite)
    methods = [name for name in METHODS if method in ("auto", name, name.partition("-")[0])]
    if not methods:
        raise UsageError(f"--method {method!r} is not one", hint=f"choose auto or one of {', '.join(METHODS)}")
    progress = make_progress()
    source = resolve(model, progress=progress)
    inputs = open_inputs(source, data=data, labels=labels, devkit=devkit, preprocess=preprocess, progress=progress)
    content, report = quantize_model(
        source,
        dataset=inputs.calibration or inputs.dataset,
        preprocess=inputs.preprocess,
        calibration=calibration,
        methods=methods,
        keep=keep or (),
        threads=threads or default_threads(),
        seed=seed,
        progress=progress,
    )
    with atomic_file(output, overwrite=overwrite) as partial:
        partial.write_bytes(content)
    if as_json:
        print_json(report)
    else:
        _show(report, output)


def _show(report: QuantizeReport, output: Path) -> None:
    from ranksmith.cli.output import human_bytes, show, table

    rows = [(entry.method, f"{entry.kl:.3g}", f"{100 * entry.agreement:.1f} %") for entry in report.methods]
    columns = ("ranges", "KL (nats)", "same answer")
    title = f"{report.model} in int8 against float, {report.calibration} x {report.data}"
    show(table(columns, rows, title=title, right=columns[1:]))
    if report.kept:
        show(table(("node", "stays float"), [(skip.node, skip.why) for skip in report.kept]))
    counts = ", ".join(f"{count} {operator}" for operator, count in report.quantized.items())
    show(f"int8: {counts}")
    show(
        f"{report.method} ranges, {human_bytes(report.bytes_before)} to {human_bytes(report.bytes_after)}, "
        f"written to {output}"
    )
