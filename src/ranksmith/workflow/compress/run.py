"""`compress` from the first image to the bundle."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from ranksmith.errors import UsageError
from ranksmith.files import check_output
from ranksmith.progress import Progress
from ranksmith.results import LatencyPair, Manifest, RankPlan, Speedup
from ranksmith.runtime.session import default_threads, open_session
from ranksmith.search.evidence import boldest
from ranksmith.workflow.build import Builder
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.compress import gate
from ranksmith.workflow.compress.elsewhere import elsewhere
from ranksmith.workflow.compress.families import set_up
from ranksmith.workflow.compress.frontier import Frontier, Judge
from ranksmith.workflow.compress.job import CompressOptions, Job, Prepared
from ranksmith.workflow.compress.manifest import Result, make_manifest
from ranksmith.workflow.compress.prepare import prepare
from ranksmith.workflow.compress.selection import select
from ranksmith.workflow.compress.statistics import gather_statistics, statistics_key
from ranksmith.workflow.compress.write import write_bundle
from ranksmith.workflow.inputs import Inputs
from ranksmith.workflow.source import ModelSource

__all__ = ["compress"]


def compress(
    source: ModelSource,
    inputs: Inputs,
    options: CompressOptions,
    *,
    progress: Progress,
    cache: Cache | None = None,
) -> Manifest:
    """Search, build, gate and write the bundle of `options.output`; returns its manifest.

    The result is never slower than the original: where the paired latency does not show a gain at every batch
    size, or no plan keeps the accuracy, the bundle holds the folded original and the verdict says so.

    Raises:
        UsageError: options that contradict each other.
        GateError: every plan that was chosen lost more than `max_drop_pp` or agreed less than asked for; nothing is
            written.
        OutputError, ModelError, DataError: as their docstrings say; nothing is written.
    """
    check_output(options.output, overwrite=options.overwrite)
    if options.precision == "int8" and options.objective == "macs":
        raise UsageError(
            "multiply-adds do not depend on the precision", hint="with --precision int8 save latency or bytes"
        )
    job = Job(
        source=source,
        dataset=inputs.dataset,
        calibration_dataset=inputs.calibration,
        preprocess=inputs.preprocess,
        labels=inputs.labels,
        options=options,
        progress=progress,
        cache=cache or Cache(),
    )
    # A provider that is not there, or a model that it cannot run, is told now and not after minutes of work.
    open_session(source.path, provider=options.provider, threads=options.threads)
    clock = job.clock
    with clock.stage("fold"):
        prepared = prepare(job)
    if prepared.calibration.batch == 1 and options.batches != (1,):
        progress.note("the model takes one image at a time, so it is timed at batch 1 only")
        job = replace(job, options=replace(options, batches=(1,)))
    with clock.stage("spectra"):
        statistics = gather_statistics(job, prepared)
    builder = Builder(
        prepared.folded,
        statistics,
        images=prepared.calibration.batches,
        threads=default_threads(),
        seed=options.seed,
        cache=job.cache,
        key=statistics_key(job, prepared, "chains", seed=options.seed),
    )
    families = set_up(job, prepared, statistics, builder)
    with tempfile.TemporaryDirectory(prefix="ranksmith-") as scratch:
        judge = Judge(job, prepared, builder, Path(scratch))
        with clock.stage("search"):
            frontier = select(job, prepared, families, judge)
        with clock.stage("gate"):
            result = _gate(job, prepared, frontier)
    with clock.stage("bundle"):
        manifest, rank_plans = make_manifest(job, prepared, statistics, families, frontier, result)
        return write_bundle(job, prepared, result.model, manifest, rank_plans)


def _gate(job: Job, prepared: Prepared, frontier: Frontier) -> Result:
    """Paired latency of the original file against the result, and accuracy on the held-out images."""
    if frontier.chosen is not None:
        content = frontier.judge.build(frontier.chosen.plan)
        latency, folded = _paired(job, prepared, content)
        if all(pair.ci95[0] > 1.0 for pair in latency):
            return _result(job, prepared, frontier, frontier.chosen.plan, content, latency, folded)
        job.progress.note("the result is not measurably faster at every batch size: keeping the original")
    # Nothing hangs on these, so they are not refined.
    latency, folded = gate.paired(job, prepared.folded_bytes, prepared.folded_bytes)
    return _result(job, prepared, frontier, None, prepared.folded_bytes, latency, folded)


def _result(
    job: Job,
    prepared: Prepared,
    frontier: Frontier,
    plan: RankPlan | None,
    content: bytes,
    latency: list[LatencyPair],
    folded: Speedup,
) -> Result:
    return Result(
        verdict="kept-original" if plan is None else "faster",
        model=content,
        accuracy=gate.accuracy(
            *frontier.judge.answers(plan, prepared.holdout),
            seed=job.options.seed,
            budget=job.budget,
            looks=1 if plan is None else frontier.looks,
            other=boldest(one.judgement.evidence for one in frontier.tried),
        ),
        latency=latency,
        folded=folded,
        batch_cost=gate.batch_cost(job, content),
        providers=elsewhere(job, content, "fp32" if plan is None else plan.precision),
    )


def _paired(job: Job, prepared: Prepared, content: bytes) -> tuple[list[LatencyPair], Speedup]:
    """The result and the folded original against the original file; with more pairs where the answer is not clear."""
    latency, folded = gate.paired(job, content, prepared.folded_bytes)
    if any(pair.ci95[0] <= 1.0 < pair.ratio for pair in latency):
        latency, folded = gate.paired(job, content, prepared.folded_bytes, effort=3.0)
    return latency, folded
