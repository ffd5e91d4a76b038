"""Which plan is built: allocation, the choice on the selection images, and whether it holds on fresh ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ranksmith.errors import GateError
from ranksmith.graph import io
from ranksmith.measure.latency import paired_latency, random_feeds
from ranksmith.runtime.session import open_session
from ranksmith.search.allocate import Plan, plans
from ranksmith.search.candidates import Option
from ranksmith.search.choose import choose
from ranksmith.workflow.compress.consider import Considered
from ranksmith.workflow.compress.frontier import Choices, Frontier, Judge, Tried, build, entries_of
from ranksmith.workflow.compress.gate import Judgement
from ranksmith.workflow.compress.job import ImageSet, Job, Prepared
from ranksmith.workflow.compress.profile import layer_times
from ranksmith.workflow.statistics import Statistics

__all__ = ["select"]

# A layer that takes this much longer in the whole model than the dense one is reverted.
_SLOWER = 1.05
# How often the allocation is made again without layers that were slower in the whole model.
_CORRECTIONS = 3


def select(
    job: Job,
    prepared: Prepared,
    statistics: Statistics,
    considered: Mapping[str, Considered],
) -> Frontier:
    """The strongest plan that keeps the accuracy promise, on images it was not chosen on.

    Plans from mild to strong come from exact allocation; bisection finds the strongest that is probably within
    budget; layers that are slower in the whole model are reverted and the rest is allocated again. A choice on few
    images can be a lucky one, so the plan has to hold on all the held-out images. Where it does not, a part of
    those joins the images that are chosen on, a plan of at most half the damage is looked for, and what is left of
    the held-out images judges it.

    Raises:
        GateError: no held-out images are left, and the last choice did not hold either.
    """
    judge = Judge(job, prepared, statistics)
    paying = {node: seen.paying for node, seen in considered.items()}
    chosen_on, held_out = [prepared.selection], list(prepared.holdout)
    tried: dict[tuple[Option, ...], Tried] = {}
    reverted: list[str] = []
    corrections, bound = 0, np.inf
    sweep = _sweep(job, paying)
    while True:
        plan, found = _strongest(job, judge, sweep, chosen_on)
        tried |= found
        kept, dense_ms, result_ms = _without_slower(job, prepared, statistics, plan.choices if plan else {})
        slower = [node for node in plan.choices if node not in kept] if plan else []
        reverted += slower
        if slower and corrections < _CORRECTIONS:
            # The table was wrong about these: without them, others can be decomposed at the same accuracy.
            job.progress.note(f"{len(slower)} layers were slower in the whole model: allocating again without them")
            corrections += 1
            paying = {node: [] if node in slower else listed for node, listed in paying.items()}
            sweep = [plan for plan in _sweep(job, paying) if plan.damage <= bound]
            continue
        if plan is None or not kept:
            break
        held = judge(entries_of(kept), held_out)
        if held.drop_pp <= job.options.max_drop_pp:
            break
        if len(held_out) == 1:
            raise _missed(job, list(tried.values()), held)
        job.progress.note(
            f"a plan of {len(kept)} layers lost {held.drop_pp:.2f} pp on {len(held.losses)} fresh images: "
            "looking for a milder one"
        )
        # Half the damage, not merely less: what is left of the held-out images is too little to try plan after plan.
        bound = plan.damage / 2
        sweep = [milder for milder in sweep if milder.damage <= bound]
        chosen_on.append(held_out.pop(0))
    if kept and slower:
        tried[tuple(kept.values())] = Tried(kept, judge(entries_of(kept), chosen_on))
    job.progress.note(_summary(sweep, kept))
    return Frontier(
        tried=list(tried.values()),
        chosen=kept,
        model_ms=_model_ms(job, prepared),
        judge=judge,
        chosen_on=chosen_on,
        held_out=held_out,
        reverted=reverted,
        dense_ms=dense_ms,
        result_ms=result_ms,
    )


def _sweep(job: Job, paying: Mapping[str, list[Option]]) -> list[Plan]:
    return plans(paying, objective=job.options.objective, points=job.options.points)


def _strongest(
    job: Job, judge: Judge, sweep: Sequence[Plan], images: Sequence[ImageSet]
) -> tuple[Plan | None, dict[tuple[Option, ...], Tried]]:
    """The strongest acceptable plan of the sweep, and every plan that was judged on the way."""
    found = choose(
        sweep,
        lambda plan: judge(entries_of(plan.choices), images),
        max_drop_pp=job.options.max_drop_pp,
        confidence=job.options.confidence,
        labelled=job.dataset.labels is not None,
    )
    tried = {tuple(entry.plan.choices.values()): Tried(entry.plan.choices, entry.score) for entry in found.evaluated}
    return (found.chosen.plan if found.chosen else None), tried


def _without_slower(
    job: Job, prepared: Prepared, statistics: Statistics, chosen: Choices
) -> tuple[Choices, dict[str, float], dict[str, float]]:
    """The choices without those that are slower in the whole model; the layers' times in the original and there."""
    kept = chosen
    while True:
        if not kept:
            [dense_ms] = layer_times(job, prepared, prepared.folded_bytes)
            return kept, dense_ms, {}
        content = io.to_bytes(build(prepared, entries_of(kept), statistics))
        dense_ms, result_ms = layer_times(job, prepared, prepared.folded_bytes, content)
        slower = {node for node in kept if result_ms.get(node, 0.0) > _SLOWER * dense_ms.get(node, np.inf)}
        if not slower:
            return kept, dense_ms, result_ms
        kept = {node: option for node, option in kept.items() if node not in slower}


def _summary(sweep: Sequence[Plan], kept: Choices) -> str:
    if not sweep:
        return "no layer has a rank that pays on this machine within the accuracy asked for"
    if not kept:
        return f"none of {len(sweep)} plans keeps the accuracy asked for"
    return f"chose a plan of {len(kept)} layers out of {len(sweep)} plans"


def _missed(job: Job, tried: Sequence[Tried], held: Judgement) -> GateError:
    budget = job.options.max_drop_pp
    what = "top-1" if job.dataset.labels is not None else "agreement"
    best = min(tried, key=lambda one: one.judgement.drop_pp)
    return GateError(
        f"{what} fell by {held.drop_pp:.2f} pp on {len(held.losses)} held-out images, more than --max-drop {budget:g}",
        hint=f"the best plan lost {best.judgement.drop_pp:.2f} pp on the images it was chosen on; allow a larger "
        "--max-drop, or give more images",
    )


def _model_ms(job: Job, prepared: Prepared) -> float:
    """Latency of the folded original at the first batch size, for predicting that of the plans."""
    session = open_session(prepared.folded_bytes, provider=job.options.provider, threads=job.options.threads)
    feeds = random_feeds(session, job.options.batches[0], job.options.seed)
    return float(np.median(paired_latency([lambda: session.run(feeds)], pairs=5, seed=job.options.seed)))
