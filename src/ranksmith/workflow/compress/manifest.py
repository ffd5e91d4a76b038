"""Everything a run found out, as the manifest and the rank plans of the bundle."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

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
    Family,
    FileInfo,
    FrontierPoint,
    LatencyPair,
    Manifest,
    ProviderLatency,
    RankPlan,
    Spectrum,
    Speedup,
)
from ranksmith.runtime.machine import machine
from ranksmith.workflow.compress.families import Families
from ranksmith.workflow.compress.frontier import Frontier, Tried
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.records import layer_records
from ranksmith.workflow.compress.statistics import statistics_key
from ranksmith.workflow.statistics import Statistics

__all__ = ["Result", "make_manifest"]


@dataclass(frozen=True)
class Result:
    """What the gate let through.

    Attributes:
        verdict: whether `model` is the chosen plan's or the folded original.
        model: what the bundle will hold, serialized.
        folded: the folded original against the original file, at the first batch size.
    """

    verdict: Literal["faster", "kept-original"]
    model: bytes
    accuracy: Accuracy
    latency: list[LatencyPair]
    folded: Speedup
    batch_cost: BatchCost
    providers: list[ProviderLatency]


def make_manifest(
    job: Job,
    prepared: Prepared,
    statistics: Statistics,
    families: Families,
    frontier: Frontier,
    result: Result,
) -> tuple[Manifest, dict[str, RankPlan]]:
    """The manifest (the model's own hash and size still open) and the plans by file name."""
    options = job.options
    path = job.source.path
    size = sum(file.stat().st_size for file in [path, *external_files(io.load(path))])
    macs, params = cost(prepared.folded)
    before = Cost(macs=macs, params=params, bytes=size)
    spectra = _spectra(job, prepared, statistics)
    points, plans = _points(frontier, result, before)
    faster = result.verdict == "faster" and frontier.chosen is not None
    manifest = Manifest(
        ranksmith=__version__,
        command=options.command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        verdict=result.verdict,
        source=FileInfo(name=path.name, sha256=prepared.source_sha256, bytes=size),
        model=FileInfo(name="model.onnx", sha256="", bytes=0),
        inputs=input_infos(prepared.folded),
        outputs=output_infos(prepared.folded),
        preprocess=job.preprocess,
        labels=list(job.labels) if job.labels is not None else None,
        machine=machine(),
        provider=options.provider,
        threads=options.threads,
        precision=frontier.chosen.plan.precision if faster and frontier.chosen else "fp32",
        asked_precision=options.precision,
        objective=options.objective,
        max_drop_pp=options.max_drop_pp,
        min_agreement=options.least_agreement,
        seed=options.seed,
        data=_data_use(job, prepared),
        accuracy=result.accuracy,
        latency=result.latency,
        cost_before=before,
        cost_after=_cost_after(frontier.chosen if faster else None, before),
        layers=layer_records(prepared, families, frontier, kept_original=not faster),
        spectra=spectra,
        rank_errors=_rank_errors(spectra),
        frontier=points,
        batch_cost=result.batch_cost,
        stages_s=dict(job.clock.stages_s),
        warnings=prepared.warnings + _skipped(prepared),
        prediction=frontier.prediction,
        providers=result.providers,
        notes=families.notes,
    )
    return manifest, plans


def _cost_after(chosen: Tried | None, before: Cost) -> Cost:
    if chosen is None:
        return before
    macs = None if before.macs is None else before.macs - chosen.macs_saved
    return Cost(macs=macs, params=before.params - chosen.params_saved, bytes=0)


def _points(frontier: Frontier, result: Result, before: Cost) -> tuple[list[FrontierPoint], dict[str, RankPlan]]:
    faster = result.verdict == "faster"
    before_ours: list[tuple[Family, Speedup | None, bool]] = [
        ("original", None, False),
        ("folded", result.folded, not faster),
    ]
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
            family=name,
        )
        for name, speedup, chosen in before_ours
    ]
    plans: dict[str, RankPlan] = {}
    for tried, timed in sorted(
        zip(frontier.tried, frontier.timed, strict=True), key=lambda pair: pair[1].speedup.ratio
    ):
        chosen = faster and tried is frontier.chosen
        family = _family(tried)
        number = sum(point.plan is not None for point in points) + 1
        file = f"plan-{number:02d}.json"
        plans[file] = tried.plan
        speedup = Speedup(ratio=result.latency[0].ratio, ci95=result.latency[0].ci95) if chosen else timed.speedup
        points.append(
            FrontierPoint(
                name=_name(tried, family, number),
                plan=file,
                macs=None if before.macs is None else before.macs - tried.macs_saved,
                params=before.params - tried.params_saved,
                speedup=speedup.ratio,
                speedup_ci95=speedup.ci95,
                selection_drop_pp=tried.judgement.drop_pp,
                selection_agreement=tried.judgement.agreement,
                selection_kl=tried.judgement.kl,
                chosen=chosen,
                family=family,
                predicted_ms=timed.predicted_ms,
                measured_ms=timed.measured_ms,
                probability=tried.probability,
            )
        )
    return points, plans


def _name(tried: Tried, family: Family, number: int) -> str:
    if family == "int8":
        return tried.title
    return "uniform SVD" if family == "uniform-svd" else f"plan {number}"


def _family(tried: Tried) -> Family:
    if tried.family is None:
        return "uniform-svd"
    if tried.plan.precision == "fp32":
        return "low-rank"
    if any(entry.kind is not None for entry in tried.plan.layers):
        return "low-rank-int8"
    return "int8"


def _data_use(job: Job, prepared: Prepared) -> DataUse:
    calibration_chooses = job.calibration_dataset is None
    return DataUse(
        name=job.dataset.name,
        calibration=len(prepared.calibration),
        calibration_sha256=prepared.calibration_sha256,
        selection=len(prepared.selection) - calibration_chooses * len(prepared.calibration),
        calibration_chooses=calibration_chooses,
        holdout=len(prepared.holdout),
        skipped=len(_skipped(prepared)),
    )


def _skipped(prepared: Prepared) -> list[str]:
    sets = (prepared.calibration, prepared.selection, prepared.holdout)
    return sorted({reason for images in sets for reason in images.skipped})


def _spectra(job: Job, prepared: Prepared, statistics: Statistics) -> list[Spectrum]:
    """Of every candidate; kept in the cache, as they take seconds and no machine changes them."""
    key = statistics_key(job, prepared, "spectra", nodes=prepared.candidates)
    found = job.cache.json(key)
    if found is None:
        found = [
            [statistics.energy(node, layer.group).tolist(), weight_energy(layer).tolist()]
            for node, layer in prepared.layers.items()
        ]
        job.cache.put_json(key, found)
    return [
        Spectrum(node=node, output=output, weight=weight)
        for node, (output, weight) in zip(prepared.layers, found, strict=True)
    ]


def _rank_errors(spectra: Iterable[Spectrum]) -> dict[str, list[float]]:
    return {spectrum.node: relative_error(np.asarray(spectrum.output)).tolist() for spectrum in spectra}
