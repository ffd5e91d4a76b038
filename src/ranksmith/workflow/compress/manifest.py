"""Everything a run found out, as the manifest and the rank plans of the bundle."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ranksmith._version import __version__
from ranksmith.graph.query import cost, input_infos, output_infos
from ranksmith.lowrank.spectra import relative_error, weight_energy
from ranksmith.results import (
    Accuracy,
    BatchCost,
    Cost,
    DataUse,
    FileInfo,
    FrontierPoint,
    LatencyPair,
    Manifest,
    PlanEntry,
    RankPlan,
    Spectrum,
)
from ranksmith.runtime.machine import machine
from ranksmith.search.candidates import Option
from ranksmith.workflow.compress.consider import Considered
from ranksmith.workflow.compress.frontier import Judge, rank_plan
from ranksmith.workflow.compress.gate import Judgement
from ranksmith.workflow.compress.job import ImageSet, Job, Prepared
from ranksmith.workflow.compress.records import layer_records
from ranksmith.workflow.statistics import Statistics

__all__ = ["Frontier", "Result", "Tried", "entries_of", "make_manifest"]

Choices = Mapping[str, Option]


def entries_of(choices: Choices) -> dict[str, PlanEntry]:
    """The choices as the entries of a rank plan."""
    return {node: PlanEntry(node=node, kind=option.kind, rank=option.rank) for node, option in choices.items()}


@dataclass(frozen=True)
class Tried:
    """A plan and how it did on the selection images."""

    choices: Choices
    judgement: Judgement


@dataclass(frozen=True)
class Frontier:
    """Every plan that was judged, and the one that was chosen (empty: the original).

    Attributes:
        model_ms: latency of the folded original.
        chosen_on: the images that decided.
        held_out: the images that took part in nothing.
        reverted: nodes that the chosen plan had decomposed and that were slower in the whole model.
    """

    tried: list[Tried]
    chosen: Choices
    model_ms: float
    judge: Judge
    chosen_on: list[ImageSet]
    held_out: list[ImageSet]
    reverted: list[str] = field(default_factory=list)

    def speedup(self, choices: Choices) -> float:
        """Predicted from the latency table: the original's time over that of a plan."""
        saved = sum(option.dense_ms - option.ms for option in choices.values() if option.ms and option.dense_ms)
        return self.model_ms / max(self.model_ms - saved, 1e-9)


@dataclass(frozen=True)
class Result:
    """What the gate let through.

    Attributes:
        verdict: "faster" or "kept-original".
        model: what the bundle will hold.
        dense_ms, result_ms: by Conv in the whole model, profiled.
    """

    verdict: str
    model: ir.Model
    accuracy: Accuracy
    latency: list[LatencyPair]
    batch_cost: BatchCost
    dense_ms: dict[str, float]
    result_ms: dict[str, float]


def make_manifest(
    job: Job,
    prepared: Prepared,
    statistics: Statistics,
    considered: Mapping[str, Considered],
    frontier: Frontier,
    result: Result,
) -> tuple[Manifest, dict[str, RankPlan]]:
    """The manifest (the model's own hash and size still open) and the plans by file name."""
    options = job.options
    points, plans = _points(prepared, frontier, result)
    source = FileInfo(name=job.source.path.name, sha256=prepared.source_sha256, bytes=job.source.path.stat().st_size)
    macs, params = cost(prepared.folded)
    manifest = Manifest(
        ranksmith=__version__,
        command=options.command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        verdict="faster" if result.verdict == "faster" else "kept-original",
        source=source,
        model=FileInfo(name="model.onnx", sha256="", bytes=0),
        inputs=input_infos(result.model),
        outputs=output_infos(result.model),
        preprocess=job.preprocess,
        labels=list(job.labels) if job.labels is not None else None,
        machine=machine(),
        provider=options.provider,
        threads=options.threads,
        precision="fp32",
        objective=options.objective,
        max_drop_pp=options.max_drop_pp,
        seed=options.seed,
        data=_data_use(job, prepared, frontier),
        accuracy=result.accuracy,
        latency=result.latency,
        cost_before=Cost(macs=macs, params=params, bytes=source.bytes),
        cost_after=_cost_after(prepared, frontier, result, macs),
        layers=layer_records(
            prepared,
            considered,
            frontier.chosen,
            kept_original=result.verdict != "faster",
            reverted=frontier.reverted,
            dense_ms=result.dense_ms,
            result_ms=result.result_ms,
        ),
        spectra=_spectra(prepared, statistics),
        rank_errors=_rank_errors(prepared, statistics),
        frontier=points,
        batch_cost=result.batch_cost,
        stages_s=dict(job.clock.stages_s),
        warnings=prepared.warnings + _skipped(prepared),
    )
    return manifest, plans


def _cost_after(prepared: Prepared, frontier: Frontier, result: Result, macs: int | None) -> Cost:
    _, params = cost(result.model)
    if macs is not None and result.verdict == "faster":
        macs -= sum(option.dense_macs - option.macs for option in frontier.chosen.values())
    return Cost(macs=macs, params=params, bytes=0)


def _points(prepared: Prepared, frontier: Frontier, result: Result) -> tuple[list[FrontierPoint], dict[str, RankPlan]]:
    macs, params = cost(prepared.folded)
    faster = result.verdict == "faster"
    points = [
        FrontierPoint(
            name="original",
            plan=None,
            macs=macs,
            params=params,
            speedup=1.0,
            speedup_ci95=None,
            selection_drop_pp=0.0,
            selection_agreement=1.0,
            selection_kl=0.0,
            chosen=not faster,
        )
    ]
    plans: dict[str, RankPlan] = {}
    for number, tried in enumerate(sorted(frontier.tried, key=lambda entry: frontier.speedup(entry.choices)), 1):
        chosen = faster and tried.choices == frontier.chosen
        name = f"plan-{number:02d}.json"
        plans[name] = rank_plan(prepared, entries_of(tried.choices))
        saved_macs = sum(option.dense_macs - option.macs for option in tried.choices.values())
        saved_params = sum(option.dense_params - option.params for option in tried.choices.values())
        points.append(
            FrontierPoint(
                name=f"plan {number}",
                plan=name,
                macs=None if macs is None else macs - saved_macs,
                params=params - saved_params,
                speedup=result.latency[0].ratio if chosen else frontier.speedup(tried.choices),
                speedup_ci95=result.latency[0].ci95 if chosen else None,
                selection_drop_pp=tried.judgement.drop_pp,
                selection_agreement=tried.judgement.agreement,
                selection_kl=tried.judgement.kl,
                chosen=chosen,
            )
        )
    return points, plans


def _data_use(job: Job, prepared: Prepared, frontier: Frontier) -> DataUse:
    return DataUse(
        name=job.dataset.name,
        calibration=len(prepared.calibration),
        calibration_sha256=prepared.calibration_sha256,
        selection=sum(len(images) for images in frontier.chosen_on),
        holdout=sum(len(images) for images in frontier.held_out),
        skipped=len(_skipped(prepared)),
    )


def _skipped(prepared: Prepared) -> list[str]:
    sets = (prepared.calibration, prepared.selection, *prepared.holdout)
    return sorted({reason for images in sets for reason in images.skipped})


def _spectra(prepared: Prepared, statistics: Statistics) -> list[Spectrum]:
    return [
        Spectrum(
            node=node,
            output=statistics.energy(node, layer.group).tolist(),
            weight=weight_energy(layer).tolist(),
        )
        for node, layer in prepared.layers.items()
    ]


def _rank_errors(prepared: Prepared, statistics: Statistics) -> dict[str, list[float]]:
    return {
        node: relative_error(statistics.energy(node, layer.group)).tolist() for node, layer in prepared.layers.items()
    }
