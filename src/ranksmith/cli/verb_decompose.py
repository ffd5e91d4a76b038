"""`ranksmith decompose`: replace Convs by low-rank chains, as told on the command line or by a rank plan."""

from __future__ import annotations

from pathlib import Path
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
from ranksmith.results import PlanEntry, RankPlan

if TYPE_CHECKING:
    from ranksmith.progress import Progress
    from ranksmith.workflow.source import ModelSource

__all__ = ["decompose"]


def decompose(
    model: ModelArgument,
    output: OutputOption,
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NODE=RANK", help="A Conv and its rank; may be repeated.", show_default=False),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="A rank plan, as `compress` writes them.", show_default=False),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="How --node is decomposed: output-pca (with data), weight-svd (without), input-side, "
            "spatial-vertical, spatial-horizontal or tucker2.",
            show_default=False,
        ),
    ] = None,
    data: DataOption = None,
    labels: LabelsOption = None,
    devkit: DevkitOption = None,
    preprocess: PreprocessOption = None,
    calibration: CalibrationOption = 100,
    fold: Annotated[
        bool, typer.Option("--fold/--no-fold", help="Fold BatchNormalization first, as decomposing wants it.")
    ] = True,
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Replace Convs by low-rank chains, for example `--node res3a_branch2b=64`."""
    import msgspec

    from ranksmith.cli.output import make_progress, print_json
    from ranksmith.cli.passes import show_pass
    from ranksmith.files import check_output
    from ranksmith.graph import io
    from ranksmith.runtime.session import default_threads
    from ranksmith.workflow.cache import Cache
    from ranksmith.workflow.decompose import decompose as apply
    from ranksmith.workflow.inputs import open_inputs
    from ranksmith.workflow.source import resolve

    check_output(output, overwrite=overwrite)
    progress = make_progress()
    source = resolve(model, progress=progress)
    has_data = data is not None or source.data is not None
    layers = [_entry(text, kind or ("output-pca" if has_data else "weight-svd")) for text in node or ()]
    planned = RankPlan(layers=layers)
    if plan is not None:
        planned = _read_plan(plan, source, progress)
        planned = msgspec.structs.replace(planned, layers=layers + planned.layers)
    if not planned.layers and planned.precision == "fp32":
        raise UsageError("nothing to decompose", hint="pass --node NODE=RANK or --plan FILE")
    inputs = None
    if _needs_data(planned) and has_data:
        inputs = open_inputs(source, data=data, labels=labels, devkit=devkit, preprocess=preprocess, progress=progress)
    result, report = apply(
        source,
        planned,
        dataset=None if inputs is None else inputs.calibration or inputs.dataset,
        preprocess=None if inputs is None else inputs.preprocess,
        calibration=calibration,
        fold=fold,
        threads=threads or default_threads(),
        seed=seed,
        progress=progress,
        cache=Cache(),
    )
    io.save(result, output, overwrite=overwrite)
    if as_json:
        print_json(report)
        return
    named = {layer.node for layer in planned.layers}
    if folded := sum(change.what.startswith("BatchNormalization folded") for change in report.changed):
        progress.note(f"{folded} BatchNormalization folded first (--no-fold leaves them)")
    show_pass(report, output, changes=[change for change in report.changed if change.node in named])


def _entry(text: str, kind: str) -> PlanEntry:
    """`NODE=RANK` as a plan's entry; a node's name may hold `=` itself."""
    name, separator, rank = text.rpartition("=")
    if not separator or not name or not rank.isdecimal():
        raise UsageError(f"--node {text!r} does not say NODE=RANK", hint="for example --node res3a_branch2b=64")
    return PlanEntry(node=name, kind=kind, rank=int(rank))


def _read_plan(path: Path, source: ModelSource, progress: Progress) -> RankPlan:
    import msgspec

    from ranksmith.graph import io
    from ranksmith.results import from_json

    try:
        plan = from_json(path.read_bytes(), RankPlan)
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{path} is not a rank plan: {error}", hint="`compress` writes them under frontier/"
        ) from error
    if plan.source_sha256 is not None and plan.source_sha256 != io.sha256(source.path):
        progress.warn(f"{path} was made for another model than {source.path}")
    return plan


def _needs_data(plan: RankPlan) -> bool:
    from ranksmith.lowrank.factor import KINDS

    fitted = any(layer.kind in KINDS and KINDS[layer.kind].needs is not None for layer in plan.layers)
    return fitted or plan.precision == "int8"
