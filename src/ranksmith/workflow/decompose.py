"""Apply a rank plan to a model: fold, gather what its kinds need, replace each Conv by its chain."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ranksmith.data.dataset import Dataset
from ranksmith.data.split import split
from ranksmith.errors import NodeNotFoundError, RankError, UsageError
from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.fold import fold as fold_model
from ranksmith.graph.normalize import normalize
from ranksmith.graph.query import conv_infos, conv_layer
from ranksmith.lowrank.factor import KINDS, kind_named
from ranksmith.progress import Progress
from ranksmith.results import Change, PassReport, PlanEntry, Preprocess, RankPlan
from ranksmith.workflow.inputs import image_batch
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Need, Statistics, gather

__all__ = ["apply_plan", "decompose", "load_folded"]


def load_folded(source: ModelSource) -> tuple[ir.Model, PassReport]:
    """The model of `source`, normalised and folded, and what folding did."""
    model = io.load(source.path)
    normalize(model)
    return model, fold_model(model)


def apply_plan(model: ir.Model, plan: Mapping[str, PlanEntry], statistics: Statistics) -> list[Change]:
    """Replace the planned Convs of `model`, in place, in graph order; those without a kind keep their shape."""
    order = [info.node for info in conv_infos(model)]
    for node in plan:
        if node not in order:
            raise NodeNotFoundError(node, order)
    changes = []
    for node in order:
        entry = plan.get(node)
        if entry is None or entry.kind is None or entry.rank is None:
            continue
        factorizer = statistics.factorizer(node, entry.kind, conv_layer(model, node))
        try:
            chain = factorizer.factors(entry.rank)
        except RankError as error:
            raise RankError(f"{node}: {error.message}", hint=error.hint) from error
        changes.append(replace_conv(model, node, chain))
    return changes


def decompose(
    source: ModelSource,
    plan: RankPlan,
    *,
    dataset: Dataset | None,
    preprocess: Preprocess | None,
    calibration: int,
    fold: bool,
    threads: int,
    seed: int,
    progress: Progress,
) -> tuple[ir.Model, PassReport]:
    """Build the model that `plan` describes.

    Args:
        dataset: images to calibrate on; needed where the plan uses a data-aware kind.
        calibration: how many of them to use, chosen by `seed` and content as `compress` does.

    Raises:
        NodeNotFoundError: the plan names a node that the model does not have.
        RankError: a rank outside 1..full.
        UsageError: a data-aware kind without data, or an unknown kind.
    """
    if fold:
        model, folded = load_folded(source)
    else:
        model = io.load(source.path)
        normalize(model)
        folded = PassReport(name="fold")
    entries: dict[str, PlanEntry] = {}
    for entry in plan.layers:
        if entry.node in entries:
            raise UsageError(f"the plan names {entry.node} twice")
        entries[entry.node] = entry
    known = [info.node for info in conv_infos(model)]
    needs: dict[str, list[Need]] = {}
    for node, entry in entries.items():
        if node not in known:
            raise NodeNotFoundError(node, known)
        need = None if entry.kind is None else kind_named(entry.kind).needs
        if need is not None:
            needs[node] = [need]
    statistics = Statistics()
    if needs:
        if dataset is None or preprocess is None:
            kind = next(entry.kind for entry in plan.layers if entry.kind is not None and KINDS[entry.kind].needs)
            raise UsageError(f"{kind} needs calibration images", hint="pass --data, or --kind weight-svd")
        chosen = split(dataset, calibration=calibration, seed=seed, calibration_only=True)
        statistics = gather(
            model,
            needs,
            dataset=dataset,
            indices=chosen.calibration,
            preprocess=preprocess,
            threads=threads,
            progress=progress,
            batch=image_batch(model, source.path),
        )
    changes = apply_plan(model, entries, statistics)
    return model, PassReport(name="decompose", changed=folded.changed + changes, skipped=folded.skipped)
