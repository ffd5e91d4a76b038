"""The families of plans: low rank in float, and low rank in int8.

A family is everything that the search needs to know of one precision: the model without any decomposition, its
latency, and for every layer the options with their times and damages. In int8 a plan says for every Conv whether it is
quantized, decomposed and quantized, or left in float; what leaves it in float is that it has no option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ranksmith.results import PlanEntry, Precision, RankPlan
from ranksmith.search.allocate import Plan, largest_gain, plans
from ranksmith.search.candidates import Option
from ranksmith.search.damage import DamageCurve
from ranksmith.workflow.compress.consider import paying
from ranksmith.workflow.compress.job import Job, Prepared

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
    """

    precision: Precision
    base: bytes
    base_ms: float
    dense_ms: dict[str, float]
    options: dict[str, list[Option]]
    paying: dict[str, list[Option]] = field(default_factory=dict)
    ranges: str | None = None
    excluded: list[str] = field(default_factory=list)

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

    def correct(self, dense_ms: Mapping[str, float], measured_ms: Mapping[str, float], choices: Choices) -> None:
        """Scale the table by what a whole model showed: of a layer, all options of the kind that was measured.

        Args:
            dense_ms, measured_ms: of each Conv in `base` and in the model of `choices`, which ran in turn.
        """
        for node, option in choices.items():
            before = _dense(self.options[node])
            reference = option.dense_ms if before is None else before.ms
            if option.kind is None or not option.ms or not reference or not dense_ms.get(node):
                continue
            factor = measured_ms.get(node, 0.0) / dense_ms[node] / (option.ms / reference)
            if factor > 0:
                self.options[node] = [
                    replace(other, ms=other.ms * factor) if other.kind == option.kind and other.ms else other
                    for other in self.options[node]
                ]


def _dense(options: list[Option]) -> Option | None:
    return next((option for option in options if option.kind is None), None)


def _saved_ms(choices: Choices) -> float:
    return sum(option.saved_ms or 0.0 for option in choices.values())


def _of_precision(option: Option, in_int8: Mapping[str, float]) -> float:
    return in_int8.get(option.node, 0.0) if option.precision == "int8" else 0.0
