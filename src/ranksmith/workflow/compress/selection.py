"""Which plan is built: the best that any family offers, if it holds on images that it was not chosen on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ranksmith.errors import GateError
from ranksmith.search.evidence import Budget, Evidence, boldest
from ranksmith.workflow.compress.audit import Auditor
from ranksmith.workflow.compress.earlier import earlier_plans, remember_plans
from ranksmith.workflow.compress.families import Families
from ranksmith.workflow.compress.frontier import Frontier, Judge, Tried
from ranksmith.workflow.compress.gate import Judgement
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.peers import uniform_svd
from ranksmith.workflow.compress.search import FamilySearch

__all__ = ["select"]

# Of the damage that a plan which did not hold did beyond that of its family's base, what the next one may do: after the
# first, the second and the third. Each look costs the intervals some width, so the steps grow.
_MILDER = (0.8, 0.6, 0.3)


def select(job: Job, prepared: Prepared, families: Families, judge: Judge) -> Frontier:
    """The strongest plan of all families that keeps the accuracy promise, on images it was not chosen on.

    Within a family, plans from mild to strong come from exact allocation over a table that was corrected by what
    whole models showed, and bisection finds the strongest that is probably within budget (`search`). Of all plans that
    are, in whichever family, the one that gains most is taken; what a plan gains in time is measured on the whole
    model, whatever the table says.

    A choice on few images can be a lucky one, so it has to hold on the held-out images. Where it does not, a plan of
    less damage is looked for. All that the next choice knows of the held-out images is that the last one did
    not hold, so all of them judge it again; the intervals allow for it (`measure.bootstrap`).

    Raises:
        GateError: no choice held.
    """
    earlier = earlier_plans(job, prepared)
    searches = [
        FamilySearch(job, prepared, judge, found, earlier) for found in (families.int8, families.low_rank) if found
    ]
    auditor = Auditor(job, prepared, judge)
    looks = 0
    pick = _pick(job, prepared, auditor, searches, searches)
    while pick is not None:
        held = judge(pick.plan, prepared.holdout)
        looks += 1
        missed = _missed(job.budget, held)
        if missed is None:
            break
        if looks > len(_MILDER):
            raise _not_held(missed, searches)
        job.progress.note(f"{pick.title} did not hold: {missed}; looking for a milder plan")
        failed = _search_of(pick, searches)
        failed.milder(pick, _MILDER[looks - 1])
        # Families that were far behind it may not be any more.
        due = [failed, *(search for search in searches if search.only_shown and search is not failed)]
        pick = _pick(job, prepared, auditor, searches, due)
    job.progress.note("no plan that is faster keeps the accuracy asked for" if pick is None else f"chose {pick.title}")
    tried = [one for search in searches for one in search.tried.values()]
    remember_plans(job, prepared, [search.plan(one.choices) for search in searches for one in search.tried.values()])
    tried += uniform_svd(job, prepared, judge, tried, prepared.selection)
    result_ms = {} if pick is None else _search_of(pick, searches).times(pick.plan)[1].conv_ms
    return Frontier(
        tried=tried,
        timed=auditor.time(tried),
        prediction=auditor.prediction(tried),
        chosen=pick,
        judge=judge,
        looks=looks,
        result_ms=result_ms,
    )


def _pick(
    job: Job, prepared: Prepared, auditor: Auditor, searches: Sequence[FamilySearch], due: Sequence[FamilySearch]
) -> Tried | None:
    """Search the families that are `due`; the best that all have found then, repaired where that helps."""
    images = prepared.selection
    for search in due:
        rival_ms = min((other.fastest_ms for other in searches if other is not search), default=math.inf)
        search.run(images, _boldest(searches), rival_ms=rival_ms)
    pick = _best(job, auditor, searches)
    if pick is None:
        for search in searches:
            if search.only_shown:
                search.run(images, _boldest(searches))
        pick = _best(job, auditor, searches)
    if pick is not None:
        # Repair takes as long as judging ten plans, so only what leads is repaired.
        _search_of(pick, searches).repair(pick, images, _boldest(searches))
        pick = _best(job, auditor, searches)
    return pick


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


def _missed(budget: Budget, held: Judgement) -> str | None:
    """What of the budget a plan did not keep on the held-out images, in words; None where it kept all."""
    images = f"on {len(held.losses)} held-out images"
    if held.drop_pp > budget.max_drop_pp:
        what = "top-1" if budget.labelled else "agreement"
        return f"{what} fell by {held.drop_pp:.2f} pp {images}, more than --max-drop {budget.max_drop_pp:g}"
    if budget.labelled and held.agreement < budget.min_agreement:
        asked = f"--min-agreement {100 * budget.min_agreement:g}"
        return f"{held.agreement:.1%} of the answers {images} are the original's, less than {asked}"
    return None


def _not_held(missed: str, searches: Sequence[FamilySearch]) -> GateError:
    judged = [one.judgement for search in searches for one in search.tried.values()]
    drop, agreement = min(one.drop_pp for one in judged), max(one.agreement for one in judged)
    return GateError(
        missed,
        hint=f"on the images to choose on the best plan lost {drop:.2f} pp and agreed on {agreement:.1%}; allow a "
        "larger --max-drop or a smaller --min-agreement, or give more images",
    )
