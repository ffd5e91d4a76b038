"""The search within one family: correct the table, find the strongest acceptable plan, revert what does not pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ranksmith.results import RankPlan, to_json
from ranksmith.search.allocate import make_plan
from ranksmith.search.choose import choose
from ranksmith.search.evidence import Evidence, expected_kl, probability_within
from ranksmith.workflow.compress.family import Choices, Family
from ranksmith.workflow.compress.frontier import Judge, Tried
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.profile import layer_times
from ranksmith.workflow.images import ImageSet

__all__ = ["FamilySearch"]

# A layer that takes this much longer in the whole model than what it replaces is reverted.
_SLOWER = 1.1
# Rounds of building a plan, profiling it and correcting the table, before anything is chosen.
_TABLE_ROUNDS = 2
# How often the allocation is made again without layers that were slower in the whole model.
_REVERSIONS = 1
# How many plans beyond the strongest acceptable one are repaired and judged again.
_BOLDER = 1


@dataclass(eq=False)
class FamilySearch:
    """The state of the search in one family.

    Attributes:
        bound: plans of more estimated damage than this are not tried any more, since one has failed.
        bound_kl: those that were judged and diverge by more than this are not taken any more.
        tried: every plan that was judged, by its content.
    """

    job: Job
    prepared: Prepared
    judge: Judge
    family: Family
    bound: float = np.inf
    bound_kl: float = np.inf
    tried: dict[str, Tried] = field(default_factory=dict)
    _reversions: int = 0

    def correct_table(self) -> None:
        """Build the plan that is most likely to be chosen, profile it, and correct the table by what it shows."""
        if self.job.options.objective != "latency" or self.job.options.provider != "cpu":
            return
        wanted = expected_kl(self.job.options.max_drop_pp)
        title = f"Correcting the {self.family.precision} table by whole models"
        with self.job.progress.stage(title, _TABLE_ROUNDS) as advance:
            for _ in range(_TABLE_ROUNDS):
                plan = min(self.family.sweep(self.job), key=lambda one: abs(one.damage - wanted), default=None)
                if plan is not None:
                    dense_ms, result_ms = self.times(self.plan(plan.choices))
                    self.family.correct(dense_ms, result_ms, plan.choices)
                advance(1)

    def run(self, images: Sequence[ImageSet], other: Evidence | None) -> None:
        """Bisect for the strongest acceptable plan, repair it, and go on to bolder ones as far as repair carries.

        Where layers of the plan are slower in the whole model, the search is made again without them. Every plan that
        was judged is in `tried` afterwards.

        Args:
            other: what a plan of another family did on these images.
        """
        if base := self.family.base_choices:
            # int8 alone is what a user would do without us: it is shown whatever becomes of it.
            self._remember(base, images, other)
        while True:
            sweep = [plan for plan in self.family.sweep(self.job) if plan.damage <= self.bound]
            found = choose(
                sweep,
                lambda plan: self.judge(self.plan(plan.choices), images),
                max_drop_pp=self.job.options.max_drop_pp,
                confidence=self.job.options.confidence,
                labelled=self.job.dataset.labels is not None,
                other=other,
            )
            for entry in found.evaluated:
                self._remember(entry.plan.choices, images, other, entry.probability)
            if found.chosen is None:
                return
            choices = found.chosen.plan.choices
            kept = self._without_slower(choices)
            slower = [node for node in choices if kept.get(node) != choices[node]]
            if not slower or self._reversions == _REVERSIONS:
                self._repair([kept, *(plan.choices for plan in sweep[found.chosen.index + 1 :])], images, other)
                return
            # The table was wrong about these: without them, others can be decomposed at the same accuracy.
            self.job.progress.note(
                f"{len(slower)} layers were slower in the whole model: allocating again without them"
            )
            self._reversions += 1
            self.family.excluded += slower

    def plan(self, choices: Choices, *, repaired: bool = False) -> RankPlan:
        """The choices as a rank plan."""
        return self.family.plan(self.job, self.prepared, choices, repaired=repaired)

    def _repair(self, candidates: Sequence[Choices], images: Sequence[ImageSet], other: Evidence | None) -> None:
        """Judge the repaired plans from the first to the boldest, until one is not acceptable."""
        first = self._remember(candidates[0], images, other)
        if not self.job.options.repair or first is None or not any(one.kind for one in candidates[0].values()):
            return
        for choices in candidates[: 1 + _BOLDER]:
            tried = self._remember(choices, images, other, repaired=True)
            if tried is None or not tried.is_accepted(self.job.options.confidence):
                return

    def times(self, plan: RankPlan) -> tuple[dict[str, float], dict[str, float]]:
        """Time of each Conv in the family's base and in the plan's model, run in turn."""
        dense_ms, result_ms = layer_times(self.job, self.prepared, self.family.base, self.judge.build(plan))
        return dense_ms, result_ms

    def _remember(
        self,
        choices: Choices,
        images: Sequence[ImageSet],
        other: Evidence | None,
        probability: float | None = None,
        *,
        repaired: bool = False,
    ) -> Tried | None:
        if not choices:
            return None
        plan = self.plan(choices, repaired=repaired)
        judgement = self.judge(plan, images)
        if probability is None:
            probability = probability_within(
                judgement.evidence,
                self.job.options.max_drop_pp,
                labelled=self.job.dataset.labels is not None,
                other=other,
            )
        tried = Tried(plan, self.family, choices, judgement, probability, make_plan(choices).damage)
        self.tried[to_json(plan)] = tried
        return tried

    def _without_slower(self, chosen: Choices) -> Choices:
        """The choices without decompositions that are slower in the whole model."""
        kept, base = dict(chosen), self.family.base_choices
        while True:
            dense_ms, result_ms = self.times(self.plan(kept))
            slower = [
                node
                for node, option in kept.items()
                if option.kind is not None and result_ms.get(node, 0.0) > _SLOWER * dense_ms.get(node, np.inf)
            ]
            if not slower:
                return kept
            for node in slower:
                del kept[node]
                if node in base:
                    kept[node] = base[node]
