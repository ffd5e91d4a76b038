"""Everything a run found out, as the manifest and the rank plans of the bundle."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ranksmith._version import __version__
from ranksmith.graph import io
from ranksmith.graph.external import external_files
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
    RankPlan,
    Spectrum,
    Speedup,
)
from ranksmith.runtime.machine import machine
from ranksmith.workflow.compress.consider import Considered
from ranksmith.workflow.compress.frontier import Choices, Frontier, entries_of, rank_plan
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.records import layer_records
from ranksmith.workflow.statistics import Statistics

__all__ = ["Result", "make_manifest"]


@dataclass(frozen=True)
class Result:
    """What the gate let through.

    Attributes:
        verdict: whether `model` is the chosen plan's or the folded original.
        model: what the bundle will hold.
        folded: the folded original against the original file, at the first batch size.
    """

    verdict: Literal["faster", "kept-original"]
    model: ir.Model
    accuracy: Accuracy
    latency: list[LatencyPair]
    folded: Speedup
    batch_cost: BatchCost


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
    path = job.source.path
    size = sum(file.stat().st_size for file in [path, *external_files(io.load(path))])
    macs, params = cost(prepared.folded)
    before = Cost(macs=macs, params=params, bytes=size)
    points, plans = _points(prepared, frontier, result, before)
    manifest = Manifest(
        ranksmith=__version__,
        command=options.command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        verdict=result.verdict,
        source=FileInfo(name=path.name, sha256=prepared.source_sha256, bytes=size),
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
        cost_before=before,
        cost_after=_cost_after(frontier, result, before),
        layers=layer_records(
            prepared,
            considered,
            frontier.chosen,
            kept_original=result.verdict != "faster",
            reverted=frontier.reverted,
            dense_ms=frontier.dense_ms,
            result_ms=frontier.result_ms if result.verdict == "faster" else {},
        ),
        spectra=_spectra(prepared, statistics),
        rank_errors=_rank_errors(prepared, statistics),
        frontier=points,
        batch_cost=result.batch_cost,
        stages_s=dict(job.clock.stages_s),
        warnings=prepared.warnings + _skipped(prepared),
    )
    return manifest, plans


def _cost_after(frontier: Frontier, result: Result, before: Cost) -> Cost:
    _, params = cost(result.model)
    macs = _macs_of(frontier.chosen, before) if result.verdict == "faster" else before.macs
    return Cost(macs=macs, params=params, bytes=0)


def _macs_of(choices: Choices, before: Cost) -> int | None:
    """Multiply-adds with these choices made; None where those of the original are unknown."""
    if before.macs is None:
        return None
    return before.macs - sum(option.dense_macs - option.macs for option in choices.values())


def _points(
    prepared: Prepared, frontier: Frontier, result: Result, before: Cost
) -> tuple[list[FrontierPoint], dict[str, RankPlan]]:
    faster = result.verdict == "faster"
    points = [
        FrontierPoint(
            name=name,
            plan=None,
            macs=before.macs,
            params=before.params,
            speedup=speedup.ratio if speedup else 1.0,
            speedup_ci95=speedup.ci95 if speedup else None,
            selection_drop_pp=0.0,
            selection_agreement=1.0,
            selection_kl=0.0,
            chosen=chosen,
        )
        for name, speedup, chosen in (("original", None, False), ("folded", result.folded, not faster))
    ]
    plans: dict[str, RankPlan] = {}
    for number, tried in enumerate(sorted(frontier.tried, key=lambda entry: frontier.speedup(entry.choices)), 1):
        chosen = faster and tried.choices == frontier.chosen
        name = f"plan-{number:02d}.json"
        plans[name] = rank_plan(prepared, entries_of(tried.choices))
        saved_params = sum(option.dense_params - option.params for option in tried.choices.values())
        points.append(
            FrontierPoint(
                name=f"plan {number}",
                plan=name,
                macs=_macs_of(tried.choices, before),
                params=before.params - saved_params,
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
