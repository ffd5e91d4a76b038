"""`compress` from the first image to the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from ranksmith.errors import GateError
from ranksmith.files import check_output
from ranksmith.graph import io
from ranksmith.measure.latency import paired_latency, random_feeds
from ranksmith.progress import Progress
from ranksmith.results import Accuracy, LatencyPair, Manifest, PlanEntry
from ranksmith.runtime.profile import node_times
from ranksmith.runtime.session import open_session
from ranksmith.search.allocate import plans
from ranksmith.search.choose import choose
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.compress import gate
from ranksmith.workflow.compress.consider import Considered, consider, gather_cached
from ranksmith.workflow.compress.frontier import Judge, build
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
    if prepared.calibration.batch == 1 and options.batches != (1,):
        progress.note("the model takes one image at a time, so it is timed at batch 1 only")
        job = replace(job, options=replace(options, batches=(1,)))
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
    """Plans by exact allocation, from mild to strong; the strongest that keeps the accuracy promise.

    A choice on few images can be a lucky one, so it has to hold on fresh images too. Where it does not, those
    images join the ones that are chosen on, a milder plan is looked for, and the next fresh images judge it.

    Raises:
        GateError: no fresh images are left, and the last choice did not hold either.
    """
    options = job.options
    sweep = plans(
        {node: seen.paying for node, seen in considered.items()}, objective=options.objective, points=options.points
    )
    judge = Judge(job, prepared, statistics)
    chosen_on, fresh = [prepared.selection], list(prepared.holdout)
    tried: dict[int, Tried] = {}
    limit = len(sweep)
    while True:
        found = choose(
            sweep[:limit],
            lambda plan: judge(entries_of(plan.choices), chosen_on),
            max_drop_pp=options.max_drop_pp,
            confidence=options.confidence,
            labelled=job.dataset.labels is not None,
        )
        tried |= {entry.index: Tried(entry.plan.choices, entry.score) for entry in found.evaluated}
        if found.chosen is None:
            break
        held = judge(entries_of(found.chosen.plan.choices), [*chosen_on, fresh[0]])
        if held.drop_pp <= options.max_drop_pp:
            break
        job.progress.note(
            f"the plan of {len(found.chosen.plan.choices)} layers does not hold on {len(fresh[0])} fresh images "
            f"({held.drop_pp:.2f} pp on all): looking for a milder one"
        )
        limit = found.chosen.index
        if len(fresh) == 1:
            raise _missed(job, list(tried.values()), held)
        chosen_on.append(fresh.pop(0))
    if not sweep:
        job.progress.note("no layer has a rank that pays on this machine")
    elif found.chosen is None:
        job.progress.note(f"none of {len(sweep)} plans keeps the accuracy asked for")
    else:
        job.progress.note(f"chose a plan of {len(found.chosen.plan.choices)} layers out of {len(sweep)} plans")
    return Frontier(
        tried=[tried[index] for index in sorted(tried)],
        chosen=found.chosen.plan.choices if found.chosen else {},
        model_ms=_model_ms(job, prepared),
        judge=judge,
        chosen_on=chosen_on,
        held_out=fresh,
    )


def _missed(job: Job, tried: Sequence[Tried], held: gate.Judgement) -> GateError:
    budget = job.options.max_drop_pp
    what = "top-1" if job.dataset.labels is not None else "agreement"
    best = min(tried, key=lambda one: one.judgement.drop_pp)
    return GateError(
        f"{what} fell by {held.drop_pp:.2f} pp on {len(held.losses)} images, more than --max-drop {budget:g}",
        hint=f"the best plan lost {best.judgement.drop_pp:.2f} pp on the images it was chosen on; allow a larger "
        "--max-drop, or give more images",
    )


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
        if all(one.choices != chosen for one in tried):
            tried.append(Tried(chosen, frontier.judge(entries_of(chosen), frontier.chosen_on)))
        result = _layer_ms(job, prepared, io.to_bytes(build(prepared, entries_of(chosen), statistics)))
    return replace(frontier, tried=tried, chosen=chosen, reverted=slower), Times(dense, result)


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
    seed = job.options.seed
    if frontier.chosen:
        entries = entries_of(frontier.chosen)
        model = build(prepared, entries, statistics)
        content = io.to_bytes(model)
        latency = _paired(job, content)
        if all(pair.ci95[0] > 1.0 for pair in latency):
            accuracy = _accuracy(job, frontier, entries)
            cost = gate.batch_cost(job, content)
            return Result("faster", model, accuracy, latency, cost, times.dense, times.result)
        job.progress.note("the result is not measurably faster at every batch size: keeping the original")
    return Result(
        verdict="kept-original",
        model=prepared.folded.clone(),
        accuracy=gate.accuracy(*frontier.judge.answers({}, frontier.held_out), seed=seed),
        latency=_paired(job, prepared.folded_bytes),
        batch_cost=gate.batch_cost(job, prepared.folded_bytes),
        dense_ms=times.dense,
        result_ms={},
    )


def _accuracy(job: Job, frontier: Frontier, entries: Mapping[str, PlanEntry]) -> Accuracy:
    """On every held-out image, with a note where chance takes it beyond the budget there."""
    budget = job.options.max_drop_pp
    accuracy = gate.accuracy(*frontier.judge.answers(entries, frontier.held_out), seed=job.options.seed)
    if accuracy.drop_pp <= budget:
        return accuracy
    pooled = frontier.judge(entries, [*frontier.chosen_on, *frontier.held_out])
    if pooled.drop_pp > budget:
        raise _missed(job, frontier.tried, pooled)
    note = (
        f"beyond the budget on the held-out images alone, within it ({pooled.drop_pp:.2f} pp) on all "
        f"{len(pooled.losses)} images that were not calibrated on"
    )
    job.progress.warn(f"the drop is {note}")
    return msgspec.structs.replace(accuracy, note=note)


def _paired(job: Job, content: bytes) -> list[LatencyPair]:
    """Against the original file; once more, with more pairs, where the first answer is no clear one."""
    latency: list[LatencyPair] = []
    for effort in (1.0, 3.0):
        latency = gate.paired(job, content, effort=effort)
        undecided = any(pair.ci95[0] <= 1.0 < pair.ratio for pair in latency)
        if not undecided:
            break
    return latency
