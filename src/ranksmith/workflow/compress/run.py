"""`compress` from the first image to the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from ranksmith.errors import GateError
from ranksmith.files import check_output
from ranksmith.graph import io
from ranksmith.measure.latency import paired_latency, random_feeds
from ranksmith.progress import Progress
from ranksmith.results import Accuracy, LatencyPair, Manifest
from ranksmith.runtime.profile import node_times
from ranksmith.runtime.session import open_session
from ranksmith.search.allocate import plans
from ranksmith.search.choose import choose
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.compress import gate
from ranksmith.workflow.compress.consider import Considered, consider, gather_cached
from ranksmith.workflow.compress.frontier import Judge, build, logits_of
from ranksmith.workflow.compress.job import CompressOptions, Job, Prepared
from ranksmith.workflow.compress.manifest import Frontier, Result, Tried, entries_of, make_manifest
from ranksmith.workflow.compress.prepare import prepare
from ranksmith.workflow.compress.write import write_bundle
from ranksmith.workflow.inputs import Inputs
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Statistics

__all__ = ["compress"]

# A layer that takes this much longer in the whole model than the dense one is reverted.
_SLOWER = 1.02


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
    clock = job.clock
    with clock.stage("fold"):
        prepared = prepare(job)
    with clock.stage("spectra"):
        statistics = gather_cached(job, prepared)
    with clock.stage("latency table"):
        considered = consider(job, prepared, statistics)
    with clock.stage("search"):
        frontier = _search(job, prepared, statistics, considered)
    with clock.stage("revert"):
        frontier, times = _revert(job, prepared, statistics, frontier)
    with clock.stage("gate"):
        result = _gate(job, prepared, statistics, frontier, times)
    with clock.stage("bundle"):
        manifest, rank_plans = make_manifest(job, prepared, statistics, considered, frontier, result)
        return write_bundle(job, prepared, result.model, manifest, rank_plans)


def _search(job: Job, prepared: Prepared, statistics: Statistics, considered: Mapping[str, Considered]) -> Frontier:
    """Plans by exact allocation, from mild to strong; the strongest that keeps the accuracy promise."""
    options = job.options
    sweep = plans(
        {node: seen.paying for node, seen in considered.items()}, objective=options.objective, points=options.points
    )
    judge = Judge(job, prepared, statistics)
    found = choose(
        sweep,
        lambda plan: judge(entries_of(plan.choices)),
        max_drop_pp=options.max_drop_pp,
        confidence=options.confidence,
        labelled=job.dataset.labels is not None,
    )
    tried = [Tried(dict(entry.plan.choices), entry.score) for entry in found.evaluated]
    chosen = dict(found.chosen.plan.choices) if found.chosen else {}
    if not sweep:
        job.progress.note("no layer has a rank that pays on this machine")
    elif not chosen:
        job.progress.note(f"none of {len(sweep)} plans keeps the accuracy asked for")
    else:
        job.progress.note(f"chose a plan of {len(chosen)} layers out of {len(sweep)}")
    return Frontier(tried=tried, chosen=chosen, model_ms=_model_ms(job, prepared), judge=judge)


def _model_ms(job: Job, prepared: Prepared) -> float:
    """Latency of the folded original at the first batch size, for predicting that of the plans."""
    session = open_session(prepared.folded_bytes, provider=job.options.provider, threads=job.options.threads)
    feeds = random_feeds(session, job.options.batches[0], job.options.seed)
    return float(np.median(paired_latency([lambda: session.run(feeds)], pairs=5, seed=job.options.seed)))


@dataclass(frozen=True)
class Times:
    """Milliseconds by Conv in the whole model, profiled; empty where the provider cannot tell."""

    dense: dict[str, float]
    result: dict[str, float]


def _revert(job: Job, prepared: Prepared, statistics: Statistics, frontier: Frontier) -> tuple[Frontier, Times]:
    """Undo what does not pay in the whole model, by the profile of one model against the other."""
    if job.options.provider != "cpu":
        return frontier, Times({}, {})
    with job.progress.stage("Profiling layers in the whole model"):
        dense = _layer_ms(job, prepared, prepared.folded_bytes)
        result = dense
        if frontier.chosen:
            result = _layer_ms(job, prepared, io.to_bytes(build(prepared, entries_of(frontier.chosen), statistics)))
    slower = [node for node in frontier.chosen if result.get(node, 0.0) > _SLOWER * dense.get(node, np.inf)]
    if not slower:
        return frontier, Times(dense, result)
    chosen = {node: option for node, option in frontier.chosen.items() if node not in slower}
    job.progress.note(f"reverted {len(slower)} layers that were slower in the whole model")
    tried = list(frontier.tried)
    if chosen:
        tried.append(Tried(chosen, frontier.judge(entries_of(chosen))))
        result = _layer_ms(job, prepared, io.to_bytes(build(prepared, entries_of(chosen), statistics)))
    return Frontier(tried, chosen, frontier.model_ms, frontier.judge, reverted=slower), Times(dense, result)


def _layer_ms(job: Job, prepared: Prepared, model: bytes) -> dict[str, float]:
    """Time of each original Conv in a model: its own, or the sum of the chain that replaced it."""
    session = open_session(model, threads=job.options.threads)
    feeds = random_feeds(session, job.options.batches[0], job.options.seed)
    times = node_times(model, feeds, threads=job.options.threads)
    known = {info.node for info in prepared.infos}
    summed: dict[str, float] = {}
    for name, ms in times.items():
        node = name if name in known else name.rpartition("/")[0]
        if node in known:
            summed[node] = summed.get(node, 0.0) + ms
    return summed


def _gate(job: Job, prepared: Prepared, statistics: Statistics, frontier: Frontier, times: Times) -> Result:
    """Accuracy on the held-out images, then the paired latency of the original file against the result."""
    baseline, labels = logits_of(job, prepared.folded_bytes, prepared.holdout, "Final gate: the original")
    if frontier.chosen:
        model = build(prepared, entries_of(frontier.chosen), statistics)
        content = io.to_bytes(model)
        answers, _ = logits_of(job, content, prepared.holdout, "Final gate: the result")
        accuracy = gate.accuracy(baseline, answers, labels, seed=job.options.seed)
        accuracy = _within_budget(job, frontier, gate.judge(baseline, answers, labels), accuracy)
        latency = _paired(job, content)
        if all(pair.ci95[0] > 1.0 for pair in latency):
            return Result("faster", model, accuracy, latency, gate.batch_cost(job, content), times.dense, times.result)
        job.progress.note("the result is not measurably faster at every batch size: keeping the original")
    return Result(
        verdict="kept-original",
        model=prepared.folded.clone(),
        accuracy=gate.accuracy(baseline, baseline, labels, seed=job.options.seed),
        latency=_paired(job, prepared.folded_bytes),
        batch_cost=gate.batch_cost(job, prepared.folded_bytes),
        dense_ms=times.dense,
        result_ms={},
    )


def _within_budget(job: Job, frontier: Frontier, held: gate.Judgement, accuracy: Accuracy) -> Accuracy:
    """Hold the accuracy against the budget on every image that was not calibrated on.

    The held-out images alone are too few to refuse a drop near the budget without chance deciding; the
    selection images were not calibrated on either, so the verdict is that of both together. What is reported
    is the held-out part alone, and a note where it lies beyond the budget by itself.

    Raises:
        GateError: the drop is beyond the budget.
    """
    budget = job.options.max_drop_pp
    chosen = frontier.judge(entries_of(frontier.chosen))
    pooled = 100.0 * float(np.mean(np.concatenate([chosen.losses, held.losses])))
    what = "top-1" if accuracy.labelled else "agreement"
    if pooled > budget or accuracy.drop_ci95_pp[0] > budget:
        best = max(frontier.tried, key=lambda one: (one.judgement.drop_pp <= budget, frontier.speedup(one.choices)))
        raise GateError(
            f"{what} fell by {held.drop_pp:.2f} pp on {accuracy.images} held-out images: beyond --max-drop {budget:g}",
            hint=f"the best plan while choosing was {frontier.speedup(best.choices):.2f}x at "
            f"{best.judgement.drop_pp:.2f} pp; allow a larger --max-drop, or give more images",
        )
    if held.drop_pp > budget:
        note = (
            f"by chance beyond the budget on these images alone; {pooled:.2f} pp on all "
            f"{len(chosen.losses) + len(held.losses)} images that were not calibrated on"
        )
        job.progress.warn(f"the drop of {held.drop_pp:.2f} pp on the held-out images is {note}")
        return msgspec.structs.replace(accuracy, note=note)
    return accuracy


def _paired(job: Job, content: bytes) -> list[LatencyPair]:
    """Against the original file; once more, with more pairs, where the first answer is no clear one."""
    latency: list[LatencyPair] = []
    for effort in (1.0, 3.0):
        latency = gate.paired(job, content, effort=effort)
        undecided = any(pair.ci95[0] <= 1.0 < pair.ratio for pair in latency)
        if not undecided:
            break
    return latency
