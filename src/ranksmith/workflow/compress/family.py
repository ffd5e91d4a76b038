"""The families of plans: low rank in float, and low rank in int8.

A family is everything that the search needs to know of one precision: the model without any decomposition, its
latency, and for every layer the options with their times and damages. In int8 a plan says for every Conv whether it is
quantized, decomposed and quantized, or left in float; what leaves it in float is that it has no option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ranksmith.results import PlanEntry, Precision, RankPlan
from ranksmith.search.allocate import Plan, largest_gain, plans
from ranksmith.search.candidates import Option
from ranksmith.search.damage import DamageCurve
from ranksmith.workflow.compress.consider import paying
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.profile import LayerTimes

__all__ = ["Choices", "Family"]

Choices = Mapping[str, Option]


@dataclass
class Family:
    """Plans in one precision.

    Attributes:
        base: the model with no layer decomposed: the folded original, or int8 alone.
        base_ms: its latency.
        dense_ms: time of each Conv in it; empty where the provider cannot tell.
        options: what was considered for each layer, timed and with damages; corrected as plans are measured.
        paying: those of them that pay; since the last sweep.
        ranges: how activation ranges are found; None in float.
        excluded: layers that were slower in the whole model than in the table, and are not decomposed any more.
        float_seen: layers of an int8 family whose time in float whole models have shown.
    """

    precision: Precision
    base: bytes
    base_ms: float
    dense_ms: dict[str, float]
    options: dict[str, list[Option]]
    paying: dict[str, list[Option]] = field(default_factory=dict)
    ranges: str | None = None
    excluded: list[str] = field(default_factory=list)
    float_seen: set[str] = field(default_factory=set)

    def plan(self, job: Job, prepared: Prepared, choices: Choices, *, repaired: bool = False) -> RankPlan:
        """The choices as a rank plan, in graph order."""
        entries = []
        for info in prepared.infos:
            option = choices.get(info.node)
            if option is not None and option.kind is not None:
                entries.append(PlanEntry(node=info.node, kind=option.kind, rank=option.rank))
            elif option is None and self.precision == "int8" and info.node in self.options:
                entries.append(PlanEntry(node=info.node, precision="fp32"))
        return RankPlan(
            source_sha256=prepared.source_sha256,
            layers=entries,
            precision=self.precision,
            ranges=self.ranges,
            calibration=len(prepared.calibration),
            seed=job.options.seed,
            repair=job.options.repair if repaired else 0,
            weighted=job.options.weighted,
            rounds=job.options.rounds,
        )

    def choices(self, plan: RankPlan) -> Choices | None:
        """The choices that make `plan`, in graph order; None where it is of another family or an option is missing."""
        if (plan.precision, plan.ranges) != (self.precision, self.ranges):
            return None
        chosen = self.base_choices
        for entry in plan.layers:
            if entry.kind is None:
                chosen.pop(entry.node, None)
                continue
            listed = self.options.get(entry.node, [])
            option = next((each for each in listed if (each.kind, each.rank) == (entry.kind, entry.rank)), None)
            if option is None:
                return None
            chosen[entry.node] = option
        return {node: chosen[node] for node in self.options if node in chosen}

    @property
    def base_choices(self) -> dict[str, Option]:
        """The choices that give `base`."""
        dense = {node: _dense(listed) for node, listed in self.options.items()}
        return {node: option for node, option in dense.items() if option is not None}

    def predicted_ms(self, choices: Choices) -> float:
        """The whole model's latency, from the table."""
        return max(self.base_ms - (_saved_ms(choices) - _saved_ms(self.base_choices)), 1e-3)

    def sweep(self, job: Job) -> list[Plan]:
        """Plans from mild to strong; `paying` is brought up to date."""
        listed = {
            node: [option for option in options if option.kind is None] if node in self.excluded else options
            for node, options in self.options.items()
        }
        self.paying = worth = paying(job, listed)
        shape_kept = {node: [option for option in options if option.kind is None] for node, options in worth.items()}
        objective = job.options.objective
        start = largest_gain(shape_kept, objective) if self.precision == "int8" else 0.0
        return plans(worth, objective=objective, points=job.options.points, start=start)

    def with_damages(self, curves: Mapping[str, DamageCurve], in_int8: Mapping[str, float]) -> None:
        """Estimate every option's damage: of its decomposition, and of its precision."""
        self.options = {
            node: [
                replace(option, damage=curves.get(node, DamageCurve())(option.error) + _of_precision(option, in_int8))
                for option in options
            ]
            for node, options in self.options.items()
        }

    def correct(self, base: LayerTimes, measured: LayerTimes, choices: Choices) -> None:
        """Scale the table by what a whole model showed.

        Of a layer that is decomposed, all options of the kind that was measured. Of one that int8 leaves in float, what
        float takes, conversions on either side included: they are nodes of their own, whose time is shared out
        evenly. A context of one layer shows little of them, and a plan that leaves Convs in float for nothing
        is slower than int8 alone.

        Args:
            base, measured: of `base` and of the model of `choices`, which ran in turn.
        """
        self._correct_float(base, measured, choices)
        for node, option in choices.items():
            before = _dense(self.options[node])
            reference = option.dense_ms if before is None else before.ms
            if option.kind is None or not option.ms or not reference or not base.conv_ms.get(node):
                continue
            factor = measured.conv_ms.get(node, 0.0) / base.conv_ms[node] / (option.ms / reference)
            if factor > 0:
                self.options[node] = [
                    replace(other, ms=other.ms * factor) if other.kind == option.kind and other.ms else other
                    for other in self.options[node]
                ]

    def _correct_float(self, base: LayerTimes, measured: LayerTimes, choices: Choices) -> None:
        in_float = [node for node, option in self.base_choices.items() if node not in choices and option.dense_ms]
        if not in_float:
            return
        conversions = max(0.0, measured.rest_ms - base.rest_ms) / len(in_float)
        off = {}
        for node in in_float:
            dense = self.base_choices[node]
            if dense.ms and dense.dense_ms and base.conv_ms.get(node):
                taken = (measured.conv_ms.get(node, 0.0) + conversions) / base.conv_ms[node]
                off[node] = taken * dense.ms / dense.dense_ms
        # What was never seen in float is taken to be off as the first model's Convs are: many, chosen to show it.
        usual = float(np.median(list(off.values()))) if off and not self.float_seen else 1.0
        self.float_seen |= off.keys()
        for node, options in self.options.items():
            factor = off.get(node, usual)
            self.options[node] = [
                replace(option, dense_ms=None if option.dense_ms is None else option.dense_ms * factor)
                for option in options
            ]

    def tempting_in_float(self, share: float) -> Choices:
        """The choices of `base` without the Convs that int8 saves least time of; empty in float.

        Args:
            share: of the Convs, how many are left in float.
        """
        base = self.base_choices
        order = sorted(base, key=lambda node: (base[node].ms or 0.0) / (base[node].dense_ms or 1.0), reverse=True)
        left = order[: round(share * len(order))]
        return {node: option for node, option in base.items() if node not in left}


def _dense(options: list[Option]) -> Option | None:
    return next((option for option in options if option.kind is None), None)


def _saved_ms(choices: Choices) -> float:
    return sum(option.saved_ms or 0.0 for option in choices.values())


def _of_precision(option: Option, in_int8: Mapping[str, float]) -> float:
    return in_int8.get(option.node, 0.0) if option.precision == "int8" else 0.0
