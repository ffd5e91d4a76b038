"""Which plan is built: the best that any family offers, if it holds on images that it was not chosen on."""

from __future__ import annotations

from collections.abc import Sequence

from ranksmith.errors import GateError
from ranksmith.search.evidence import Evidence, boldest
from ranksmith.workflow.compress.audit import Auditor
from ranksmith.workflow.compress.families import Families
from ranksmith.workflow.compress.frontier import Frontier, Judge, Tried
from ranksmith.workflow.compress.gate import Judgement
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.peers import uniform_svd
from ranksmith.workflow.compress.search import FamilySearch

__all__ = ["select"]

# Of the damage of a plan that did not hold, what the next one may do.
_MILDER = 0.7


def select(job: Job, prepared: Prepared, families: Families, judge: Judge) -> Frontier:
    """The strongest plan of all families that keeps the accuracy promise, on images it was not chosen on.

    Within a family, plans from mild to strong come from exact allocation over a table that was corrected by what
    whole models showed, and bisection finds the strongest that is probably within budget (`search`). Of all plans that
    are, in whichever family, the one that gains most is taken; what a plan gains in time is measured on the whole
    model, whatever the table says.

    A choice on few images can be a lucky one, so it has to hold on all the held-out images. Where it does not, a part
    of those joins the images that are chosen on, a plan of at most 0.7 of the damage is looked for, and what is left of
    the held-out images judges it.

    Raises:
        GateError: no held-out images are left, and the last choice did not hold either.
    """
    searches = [FamilySearch(job, prepared, judge, found) for found in (families.int8, families.low_rank) if found]
    auditor = Auditor(job, prepared, judge)
    for search in searches:
        search.correct_table()
    chosen_on, held_out = [prepared.selection], list(prepared.holdout)
    due = searches
    while True:
        for search in due:
            search.run(chosen_on, _boldest(searches))
        pick = _best(job, auditor, searches)
        if pick is not None:
            # Repair takes as long as judging ten plans, so only what leads is repaired.
            _search_of(pick, searches).repair(pick, chosen_on, _boldest(searches))
            pick = _best(job, auditor, searches)
        if pick is None:
            break
        held = judge(pick.plan, held_out)
        if held.drop_pp <= job.options.max_drop_pp:
            break
        if len(held_out) == 1:
            raise _missed(job, searches, held)
        job.progress.note(
            f"{pick.title} lost {held.drop_pp:.2f} pp on {len(held.losses)} fresh images: looking for a milder plan"
        )
        # A good deal less, not merely less: what is left of the held-out images is too little to try plan after plan.
        due = [_search_of(pick, searches)]
        due[0].bound = _MILDER * pick.damage
        due[0].bound_kl = _MILDER * pick.judgement.kl
        chosen_on.append(held_out.pop(0))
    job.progress.note("no plan that is faster keeps the accuracy asked for" if pick is None else f"chose {pick.title}")
    tried = [one for search in searches for one in search.tried.values()]
    tried += uniform_svd(job, prepared, judge, tried, chosen_on)
    result_ms = {} if pick is None else _search_of(pick, searches).times(pick.plan)[1].conv_ms
    return Frontier(
        tried=tried,
        timed=auditor.time(tried),
        prediction=auditor.prediction(tried),
        chosen=pick,
        judge=judge,
        chosen_on=chosen_on,
        held_out=held_out,
        result_ms=result_ms,
    )


def _best(job: Job, auditor: Auditor, searches: Sequence[FamilySearch]) -> Tried | None:
    """Of the plans that are probably within budget the one that gains most; None where none gains anything."""
    options = job.options
    accepted = [one for search in searches for one in search.acceptable]
    if options.precision == "int8":
        accepted = [one for one in accepted if one.plan.precision == "int8"]
    if options.objective == "latency":
        timed = [(timed.speedup.ratio, one) for timed, one in zip(auditor.time(accepted), accepted, strict=True)]
        gains = [(ratio - 1.0, one) for ratio, one in timed]
    elif options.objective == "macs":
        gains = [(float(one.macs_saved), one) for one in accepted]
    else:
        gains = [(one.bytes_saved, one) for one in accepted]
    gain, best = max(gains, key=lambda pair: pair[0], default=(0.0, None))
    return best if gain > 0 else None


def _search_of(one: Tried, searches: Sequence[FamilySearch]) -> FamilySearch:
    return next(search for search in searches if search.family is one.family)


def _boldest(searches: Sequence[FamilySearch]) -> Evidence | None:
    return boldest(one.judgement.evidence for search in searches for one in search.tried.values())


def _missed(job: Job, searches: Sequence[FamilySearch], held: Judgement) -> GateError:
    budget = job.options.max_drop_pp
    what = "top-1" if job.dataset.labels is not None else "agreement"
    best = min(one.judgement.drop_pp for search in searches for one in search.tried.values())
    return GateError(
        f"{what} fell by {held.drop_pp:.2f} pp on {len(held.losses)} held-out images, more than --max-drop {budget:g}",
        hint=f"the best plan lost {best:.2f} pp on the images it was chosen on; allow a larger --max-drop, or give "
        "more images",
    )
