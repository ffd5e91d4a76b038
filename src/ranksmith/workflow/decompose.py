"""Apply a rank plan to a model: fold, gather what its kinds need, and build it."""

from __future__ import annotations

import onnx_ir as ir

from ranksmith.data.dataset import Dataset
from ranksmith.data.split import split
from ranksmith.errors import UsageError
from ranksmith.graph import io
from ranksmith.graph.fold import fold as fold_model
from ranksmith.graph.normalize import normalize
from ranksmith.graph.query import conv_infos
from ranksmith.lowrank.factor import kind_named
from ranksmith.lowrank.fisher import GradientStatistics
from ranksmith.progress import Progress
from ranksmith.results import PassReport, Preprocess, RankPlan
from ranksmith.workflow.build import Builder, entries_by_node
from ranksmith.workflow.cache import Cache, calibrated_key
from ranksmith.workflow.fisher import gather_fisher
from ranksmith.workflow.images import ImageSet
from ranksmith.workflow.inputs import image_batch
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Need, Statistics, gather

__all__ = ["decompose", "load_folded"]


def load_folded(source: ModelSource) -> tuple[ir.Model, PassReport]:
    """The model of `source`, normalised and folded, and what folding did."""
    model = io.load(source.path)
    normalize(model)
    return model, fold_model(model)


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
    cache: Cache | None = None,
) -> tuple[ir.Model, PassReport]:
    """Build the model that `plan` describes.

    Args:
        dataset: images to calibrate on; needed where the plan uses a data-aware kind.
        calibration: how many of them to use, chosen by `seed` and content as `compress` does.
        cache: where `compress` may have left the factors.

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
    entries = entries_by_node(plan, [info.node for info in conv_infos(model)])
    kinds = {node: entry.kind for node, entry in entries.items() if entry.kind is not None}
    needs: dict[str, list[Need]] = {node: [need] for node, kind in kinds.items() if (need := kind_named(kind).needs)}
    statistics = Statistics()
    images: ImageSet | None = None
    key = ""
    if needs or plan.precision == "int8" or plan.repair:
        if dataset is None or preprocess is None:
            otherwise = "an int8 plan" if plan.precision == "int8" else "a repaired plan"
            what = next((kinds[node] for node in needs), otherwise)
            raise UsageError(f"{what} needs calibration images", hint="pass --data, or --kind weight-svd")
        seed = plan.seed if plan.seed is not None else seed
        chosen = split(dataset, calibration=plan.calibration or calibration, seed=seed, calibration_only=True)
        images = ImageSet(dataset, chosen.calibration, preprocess, image_batch(model, source.path))
        key = calibrated_key("chains", io.sha256(source.path), chosen.calibration_sha256, preprocess, seed=seed)
    builder = Builder(
        model,
        statistics,
        images=images.batches if images else None,
        threads=threads,
        seed=seed,
        # The factors that `compress` leaves there are of the folded model.
        cache=cache if key and fold else None,
        key=key,
    )
    missing = {node: needs[node] for node in builder.missing(plan) if node in needs}
    if images and missing:
        found = gather(
            model,
            missing,
            dataset=images.dataset,
            indices=images.indices,
            preprocess=images.preprocess,
            threads=threads,
            progress=progress,
            batch=images.batch,
            skipped=images.skipped,
            thin=True,
        )
        statistics.output |= found.output
        statistics.input |= found.input
        if plan.weighted:
            statistics.fisher |= _fisher(model, images, threads=threads, seed=seed, progress=progress)
    content, changes = builder.build(plan)
    changed = folded.changed + changes
    return io.from_bytes(content), PassReport(name="decompose", changed=changed, skipped=folded.skipped)


def _fisher(
    model: ir.Model, images: ImageSet, *, threads: int, seed: int, progress: Progress
) -> dict[str, GradientStatistics]:
    """Of all candidates, whichever the plan names: gathered together, as `compress` gathers them."""
    return gather_fisher(
        model,
        [info.node for info in conv_infos(model) if info.candidate],
        dataset=images.dataset,
        indices=images.indices,
        preprocess=images.preprocess,
        threads=threads,
        batch=images.batch,
        progress=progress,
        skipped=images.skipped,
        seed=seed,
    )
