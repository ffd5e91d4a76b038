"""`compress` from the first image to the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ranksmith.files import check_output
from ranksmith.graph import io
from ranksmith.progress import Progress
from ranksmith.results import Accuracy, LatencyPair, Manifest, PlanEntry, Speedup
from ranksmith.runtime.session import open_session
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.compress import gate
from ranksmith.workflow.compress.consider import consider, gather_cached
from ranksmith.workflow.compress.frontier import Frontier, build, entries_of
from ranksmith.workflow.compress.job import CompressOptions, Job, Prepared
from ranksmith.workflow.compress.manifest import Result, make_manifest
from ranksmith.workflow.compress.prepare import prepare
from ranksmith.workflow.compress.profile import layer_times
from ranksmith.workflow.compress.selection import select
from ranksmith.workflow.compress.write import write_bundle
from ranksmith.workflow.inputs import Inputs
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Statistics

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
        GateError: the chosen plan lost more than `max_drop_pp`; nothing is written.
        OutputError, ModelError, DataError: as their docstrings say; nothing is written.
    """
    check_output(options.output, overwrite=options.overwrite)
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
        statistics = gather_cached(job, prepared)
    with clock.stage("latency table"):
        [dense_ms] = layer_times(job, prepared, prepared.folded_bytes)
        considered = consider(job, prepared, statistics, dense_ms)
    with clock.stage("search"):
        frontier = select(job, prepared, statistics, considered)
    with clock.stage("gate"):
        result = _gate(job, prepared, statistics, frontier)
    with clock.stage("bundle"):
        manifest, rank_plans = make_manifest(job, prepared, statistics, considered, frontier, result)
        return write_bundle(job, prepared, result.model, manifest, rank_plans)


def _gate(job: Job, prepared: Prepared, statistics: Statistics, frontier: Frontier) -> Result:
    """Paired latency of the original file against the result, and accuracy on the held-out images."""
    if frontier.chosen:
        entries = entries_of(frontier.chosen)
        model = build(prepared, entries, statistics)
        content = io.to_bytes(model)
        latency, folded = _paired(job, prepared, content)
        if all(pair.ci95[0] > 1.0 for pair in latency):
            return Result(
                verdict="faster",
                model=model,
                accuracy=_accuracy(job, frontier, entries),
                latency=latency,
                folded=folded,
                batch_cost=gate.batch_cost(job, content),
            )
        job.progress.note("the result is not measurably faster at every batch size: keeping the original")
    # Nothing hangs on these, so they are not refined.
    latency, folded = gate.paired(job, prepared.folded_bytes, prepared.folded_bytes)
    return Result(
        verdict="kept-original",
        model=prepared.folded.clone(),
        accuracy=_accuracy(job, frontier, {}),
        latency=latency,
        folded=folded,
        batch_cost=gate.batch_cost(job, prepared.folded_bytes),
    )


def _accuracy(job: Job, frontier: Frontier, entries: Mapping[str, PlanEntry]) -> Accuracy:
    return gate.accuracy(*frontier.judge.answers(entries, frontier.held_out), seed=job.options.seed)


def _paired(job: Job, prepared: Prepared, content: bytes) -> tuple[list[LatencyPair], Speedup]:
    """The result and the folded original against the original file; with more pairs where the answer is not clear."""
    latency, folded = gate.paired(job, content, prepared.folded_bytes)
    if any(pair.ci95[0] <= 1.0 < pair.ratio for pair in latency):
        latency, folded = gate.paired(job, content, prepared.folded_bytes, effort=3.0)
    return latency, folded
