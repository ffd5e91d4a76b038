"""The search within one family: correct the table, find the strongest acceptable plan, revert what does not pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ranksmith.results import RankPlan, to_json
from ranksmith.search.allocate import Plan, make_plan
from ranksmith.search.choose import choose
from ranksmith.search.evidence import Evidence, expected_kl
from ranksmith.search.settle import Judged, settled
from ranksmith.workflow.compress.family import Choices, Family
from ranksmith.workflow.compress.frontier import Judge, Tried
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.profile import LayerTimes, layer_times
from ranksmith.workflow.images import ImageSet

__all__ = ["FamilySearch"]

# A layer that takes this much longer in the whole model than what it replaces is reverted.
_SLOWER = 1.1
# Rounds of building a plan, profiling it and correcting the table, before anything is chosen.
_TABLE_ROUNDS = 2
# Of the Convs, how many are left in float in the int8 model that shows what that takes.
_IN_FLOAT = 0.3
# How often the allocation is made again without layers that were slower in the whole model,
_REVERSIONS = 1
# where they account for more than this share of what the plan was to save.
_MUCH = 0.1
# Of the divergence that is expected to lose the whole budget, what the strongest acceptable plan usually has.
_USUAL = 0.5
# How much slower, by the table, a plan may be that was judged before, to be taken instead of one that was not: as much
# as the table is off.
_NEARLY = 0.05
# A family whose usual plan is this much slower than what another family has is not searched, only shown.
_BEHIND = 1.25
# Nats below which a divergence of float32 answers is rounding.
_LEAST_KL = 1e-9


@dataclass(eq=False)
class FamilySearch:
    """The state of the search in one family.

    Attributes:
        bound: plans of more estimated damage than this are neither tried nor taken any more, since one has failed.
        earlier: plans that earlier runs judged.
        tried: every plan that was judged, by its content.
        only_shown: whether the last search was left at the usual plan, since another family was far ahead.
    """

    job: Job
    prepared: Prepared
    judge: Judge
    family: Family
    earlier: Sequence[RankPlan] = ()
    bound: float = np.inf
    tried: dict[str, Tried] = field(default_factory=dict)
    only_shown: bool = False
    _corrected: bool = False
    _bolder: list[Choices] = field(default_factory=list)
    _repaired: set[str] = field(default_factory=set)
    _reversions: int = 0

    @property
    def acceptable(self) -> list[Tried]:
        """The plans that are probably within budget; of one that was repaired with success, what came out of it."""
        return [one for name, one in self.tried.items() if self._is_accepted(one) and name not in self._repaired]

    @property
    def fastest_ms(self) -> float:
        """The predicted latency of the fastest of them; infinite of none."""
        return min((self.family.predicted_ms(one.choices) for one in self.acceptable), default=np.inf)

    def _is_accepted(self, one: Tried) -> bool:
        return one.damage <= self.bound and one.is_accepted(self.job.options.confidence)

    def _correct_table(self) -> None:
        """Profile whole models and correct the table by what they show; once.

        First, of int8, one that leaves the most tempting Convs in float; then the plan that is likely to be chosen.
        """
        if self._corrected or self.job.options.objective != "latency" or self.job.options.provider != "cpu":
            return
        self._corrected = True
        title = f"Correcting the {self.family.precision} table by whole models"
        with self.job.progress.stage(title, 1 + _TABLE_ROUNDS) as advance:
            if tempting := self.family.tempting_in_float(_IN_FLOAT):
                self._correct(tempting)
            advance(1)
            seen: list[object] = []
            for _ in range(_TABLE_ROUNDS):
                sweep = self._sweep()
                guess = self._guess(sweep)
                shape = None if guess is None else _shape(sweep[guess].choices)
                if guess is not None and shape not in seen:
                    seen.append(shape)
                    self._correct(sweep[guess].choices)
                advance(1)

    def run(self, images: ImageSet, other: Evidence | None, *, rival_ms: float = np.inf) -> None:
        """Search for the strongest acceptable plan, and revert what does not pay in it.

        Where layers of the plan that are slower in the whole model matter, the search is made again without them. Every
        plan that was judged is in `tried` afterwards.

        Args:
            other: what a plan of another family did on these images.
            rival_ms: the predicted latency of the best acceptable plan of another family.
        """
        self.only_shown = self._is_behind(rival_ms)
        # int8 alone is what a user would do without us: it is shown whatever becomes of it.
        base = self.family.base_choices
        alone = self._remember(base, images, other)
        while True:
            choices, bolder = self._settled(images, other) or self._searched(images, other, alone)
            self._bolder = []
            # Nothing hangs on how fast a plan is that is only shown.
            if choices is None or self.only_shown:
                return
            kept, slower = self._without_slower(choices)
            self.family.excluded += slower
            if self._reversions == _REVERSIONS or _saved(choices, slower) <= _MUCH * _saved(choices, list(choices)):
                self._remember(kept, images, other)
                self._bolder = bolder
                return
            # The table was wrong about these: without them, others can be decomposed at the same accuracy.
            self.job.progress.note(
                f"{len(slower)} layers were slower in the whole model: allocating again without them"
            )
            self._reversions += 1

    def _is_behind(self, rival_ms: float) -> bool:
        """Whether the family's usual plan is far slower than what another family has."""
        sweep = self._sweep() if np.isfinite(rival_ms) else []
        guess = self._guess(sweep)
        return guess is not None and self.family.predicted_ms(sweep[guess].choices) > _BEHIND * rival_ms

    def _searched(
        self, images: ImageSet, other: Evidence | None, alone: Tried | None
    ) -> tuple[Choices | None, list[Choices]]:
        """The strongest acceptable plan of the sweep, and the bolder ones.

        Args:
            alone: int8 alone, in an int8 family.
        """
        if not self.only_shown:
            self._correct_table()
        sweep = [plan for plan in self._sweep() if plan.damage <= self.bound]
        if alone and sweep and sweep[0].damage < alone.damage and not self._is_accepted(alone):
            # What int8 harms most stays in float.
            self._remember(sweep[0].choices, images, other)
        guess = self._guess(sweep)
        if self.only_shown and guess is not None:
            sweep, guess = [sweep[guess]], 0
        found = choose(
            sweep,
            lambda plan: self.judge(self.plan(plan.choices), images),
            budget=self.job.budget,
            confidence=self.job.options.confidence,
            other=other,
            guess=guess,
        )
        for entry in found.evaluated:
            self._remember(entry.plan.choices, images, other, entry.probability)
        if found.chosen is None:
            return None, []
        return found.chosen.plan.choices, [plan.choices for plan in sweep[found.chosen.index + 1 :]]

    def _settled(self, images: ImageSet, other: Evidence | None) -> tuple[Choices, list[Choices]] | None:
        """What `_searched` would find, where earlier runs found it.

        Asked before whole models correct the table: corrections are of the layers that one plan has, and those of two
        plans make them hard to compare.
        """
        if self.job.options.objective != "latency" or np.isfinite(self.bound):
            return None
        known = self._known()
        found = settled(
            [Judged(ms, plan.damage, self.judge(self.plan(plan.choices), images).evidence) for ms, plan in known],
            [(plan.damage, self.family.predicted_ms(plan.choices)) for plan in self.family.sweep(self.job)],
            base=make_plan(self.family.base_choices).damage,
            budget=self.job.budget,
            confidence=self.job.options.confidence,
            other=other,
        )
        if found is None:
            return None
        for index in (found.best, found.bolder):
            self._remember(known[index][1].choices, images, other, found.probabilities[index])
        return known[found.best][1].choices, [known[found.bolder][1].choices]

    def repair(self, pick: Tried, images: ImageSet, other: Evidence | None) -> None:
        """Judge the plan repaired, and then the next bolder one, if repair may make that acceptable too."""
        if not self.job.options.repair or pick.plan.repair or not any(one.kind for one in pick.choices.values()):
            return
        repaired = self._repair(pick.choices, images, other)
        if repaired is None or not self._bolder:
            return
        known = self.tried.get(to_json(self.plan(self._bolder[0])))
        gain = repaired.judgement.kl / max(pick.judgement.kl, _LEAST_KL)
        if known is not None:
            hoped = known.judgement.evidence.nearer(min(gain, 1.0))
            if self.job.budget.probability(hoped, other) < self.job.options.confidence:
                return
        self._repair(self._bolder[0], images, other)

    def _repair(self, choices: Choices, images: ImageSet, other: Evidence | None) -> Tried | None:
        """The plan repaired; None where it is not acceptable so."""
        tried = self._remember(choices, images, other, repaired=True)
        if tried is None:
            return None
        before = self.tried.get(to_json(self.plan(choices)))
        if before is not None and tried.judgement.kl <= before.judgement.kl:
            # Of two models that differ so little, which flips a few images more is chance; all images say which is
            # closer to the original, and that one is as probably within budget.
            probability = max(tried.probability or 0.0, before.probability or 0.0)
            tried = self.tried[to_json(tried.plan)] = replace(tried, probability=probability)
        if not tried.is_accepted(self.job.options.confidence):
            return None
        self._repaired.add(to_json(self.plan(choices)))
        return tried

    def milder(self, failed: Tried, share: float) -> None:
        """Take only plans that do this share, 0 to 1, of the damage of `failed`, beyond what the base does itself."""
        base = make_plan(self.family.base_choices).damage
        self.bound = base + share * (failed.damage - base) if failed.damage > base else share * failed.damage

    def plan(self, choices: Choices, *, repaired: bool = False) -> RankPlan:
        """The choices as a rank plan."""
        return self.family.plan(self.job, self.prepared, choices, repaired=repaired)

    def times(self, plan: RankPlan) -> tuple[LayerTimes, LayerTimes]:
        """Where the time goes in the family's base and in the plan's model, run in turn."""
        base, measured = layer_times(self.job, self.prepared, self.family.base, self.judge.build(plan))
        return base, measured

    def _sweep(self) -> list[Plan]:
        """Plans from mild to strong; where an earlier run judged one that is as good and nearly as fast, that one."""
        sweep = self.family.sweep(self.job)
        if self.job.options.objective != "latency":
            return sweep
        known = self._known()
        found: list[Plan] = []
        for plan in sweep:
            own_ms = self.family.predicted_ms(plan.choices)
            gentler = [(ms, each) for ms, each in known if each.damage <= plan.damage]
            ms, best = min(gentler, key=lambda pair: pair[0], default=(own_ms, plan))
            taken = best if ms <= (1 + _NEARLY) * own_ms else plan
            if not found or taken.choices != found[-1].choices:
                found.append(taken)
        return found

    def _known(self) -> list[tuple[float, Plan]]:
        """Plans of this family that earlier runs judged, with their latency by the table."""
        return [
            (self.family.predicted_ms(choices), make_plan(choices))
            for plan in self.earlier
            if (choices := self.family.choices(plan))
            and not any(node in choices and choices[node].kind for node in self.family.excluded)
        ]

    def _guess(self, sweep: Sequence[Plan]) -> int | None:
        """The plan of `sweep` that is most likely to be the strongest acceptable one."""
        wanted = _USUAL * expected_kl(self.job.options.max_drop_pp)
        return min(range(len(sweep)), key=lambda index: abs(sweep[index].damage - wanted), default=None)

    def _correct(self, choices: Choices) -> None:
        base, measured = self.times(self.plan(choices))
        self.family.correct(base, measured, choices)

    def _remember(
        self,
        choices: Choices,
        images: ImageSet,
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
            probability = self.job.budget.probability(judgement.evidence, other)
        tried = Tried(plan, self.family, choices, judgement, probability, make_plan(choices).damage)
        self.tried[to_json(plan)] = tried
        return tried

    def _without_slower(self, chosen: Choices) -> tuple[Choices, list[str]]:
        """The choices without decompositions that are slower in the whole model, and which those were."""
        base, measured = self.times(self.plan(chosen))
        slower = [
            node
            for node, option in chosen.items()
            if option.kind is not None and measured.conv_ms.get(node, 0.0) > _SLOWER * base.conv_ms.get(node, np.inf)
        ]
        as_before = {node: option for node, option in self.family.base_choices.items() if node in slower}
        return {node: option for node, option in chosen.items() if node not in slower} | as_before, slower


def _shape(choices: Choices) -> object:
    """What makes a plan, whatever its times."""
    return [(node, option.name) for node, option in choices.items()]


def _saved(choices: Choices, nodes: Sequence[str]) -> float:
    return sum(choices[node].saved_ms or 0.0 for node in nodes)
