"""Plans that earlier runs judged on the same images, perhaps for another machine or thread count.

Their answers, factors and repaired models are in the cache, so judging one again costs nothing. What differs on another
machine is how fast they are, and that the new latency table says.
"""

from __future__ import annotations

from collections.abc import Iterable

from ranksmith.results import RankPlan, from_json, to_json
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.statistics import statistics_key

__all__ = ["earlier_plans", "remember_plans"]

_MOST = 64


def earlier_plans(job: Job, prepared: Prepared) -> list[RankPlan]:
    """What `remember_plans` kept, the latest first."""
    return [from_json(text.encode(), RankPlan) for text in _stored(job, prepared)]


def remember_plans(job: Job, prepared: Prepared, plans: Iterable[RankPlan]) -> None:
    """Keep `plans`, and of those that were kept before the latest."""
    known = dict.fromkeys([*map(to_json, plans), *_stored(job, prepared)])
    job.cache.put_json(_key(job, prepared), list(known)[:_MOST])


def _stored(job: Job, prepared: Prepared) -> list[str]:
    return job.cache.json(_key(job, prepared)) or []


def _key(job: Job, prepared: Prepared) -> str:
    options = job.options
    return statistics_key(
        job, prepared, "judged", images=prepared.selection.keys, weighted=options.weighted, rounds=options.rounds
    )
