"""Each Conv's story: what was considered, what was decided and why, in one word and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ranksmith.results import ConvInfo, LayerRecord, OptionRecord
from ranksmith.search.candidates import Option
from ranksmith.workflow.compress.families import Families
from ranksmith.workflow.compress.family import Family
from ranksmith.workflow.compress.frontier import Frontier
from ranksmith.workflow.compress.job import Prepared

__all__ = ["layer_records"]

_WHY_NOT = {
    "kept-stem": "the first Conv has too few input channels to gain from a decomposition",
    "kept-depthwise": "a depthwise Conv is of rank one already",
    "kept-not-2d": "only 2-D Convs are decomposed",
    "kept-dynamic-weight": "its weight is computed at run time",
    "kept-shared-weight": "its weight is shared with another node",
    "kept-small": "it has too few channels for a decomposition to be cheaper",
    "kept-unknown-shape": "the model leaves the size of its input open, so it cannot be timed in context",
}


def layer_records(
    prepared: Prepared, families: Families, frontier: Frontier, *, kept_original: bool
) -> list[LayerRecord]:
    """One record per Conv, in graph order.

    Args:
        kept_original: the bundle holds the folded original, whatever was chosen.
    """
    chosen = None if kept_original or frontier.chosen is None else frontier.chosen.family
    choices = frontier.chosen.choices if frontier.chosen and not kept_original else {}
    return [
        _Story(
            info=info,
            families=families,
            family=chosen,
            option=choices.get(info.node),
            result_ms=frontier.result_ms.get(info.node) if not kept_original else None,
            weighted=frontier.chosen.plan.weighted if frontier.chosen else False,
        ).record()
        for info in prepared.infos
    ]


@dataclass(frozen=True)
class _Story:
    """What is known about one Conv.

    Attributes:
        family: of the chosen plan; None where the original is kept.
        option: what the plan does to the Conv; None: nothing.
    """

    info: ConvInfo
    families: Families
    family: Family | None
    option: Option | None
    result_ms: float | None
    weighted: bool

    def record(self) -> LayerRecord:
        info, option = self.info, self.option
        reason, detail = self._reason()
        decomposed = option is not None and option.kind is not None
        baseline_ms = self.families.low_rank.dense_ms.get(info.node)
        curve = self.families.curves.get(info.node)
        return LayerRecord(
            node=info.node,
            kind=option.kind if option else None,
            rank=option.rank if option else None,
            full_rank=info.full_rank,
            break_even_rank=info.break_even_rank,
            precision=option.precision if option else "fp32",
            macs_before=info.macs,
            macs_after=option.macs if option and decomposed else info.macs,
            retained_energy=option.energy if option and decomposed else None,
            predicted_ms=self._predicted_ms(baseline_ms),
            measured_ms=self.result_ms,
            baseline_ms=baseline_ms,
            reason=reason,
            detail=detail,
            options=self._options(baseline_ms),
            sensitivity=curve.sensitivity if curve else None,
            damage=option.damage if option else 0.0,
            weighted=self.weighted and decomposed,
        )

    def _predicted_ms(self, baseline_ms: float | None) -> float | None:
        if baseline_ms is None:
            return None
        if self.option is not None:
            return self.option.ms
        if self.family is not None and self.family.precision == "int8":
            listed = self.family.options.get(self.info.node)
            return listed[0].dense_ms if listed else baseline_ms
        return baseline_ms

    def _options(self, baseline_ms: float | None) -> list[OptionRecord]:
        kept = OptionRecord(
            kind=None,
            rank=None,
            precision="fp32",
            predicted_ms=baseline_ms,
            error=0.0,
            damage=0.0,
            verdict="chosen" if self.option is None else "pays",
        )
        records = [kept]
        for family in (self.families.low_rank, self.families.int8):
            if family is not None and self.info.node in family.options:
                paying = family.paying.get(self.info.node, [])
                records += [self._option(option, paying) for option in family.options[self.info.node]]
        return records if len(records) > 1 else []

    def _option(self, option: Option, paying: Sequence[Option]) -> OptionRecord:
        if option == self.option:
            verdict = "chosen"
        elif option in paying:
            verdict = "pays"
        else:
            verdict = "slower" if (option.saved_ms or 0.0) <= 0 else "dominated"
        return OptionRecord(
            kind=option.kind,
            rank=option.rank,
            precision=option.precision,
            predicted_ms=option.ms,
            error=option.error,
            damage=option.damage,
            verdict=verdict,
        )

    def _reason(self) -> tuple[str, str]:
        option, info = self.option, self.info
        if option is not None and option.kind is not None:
            return "decomposed", (
                f"{option.kind} at rank {option.rank} keeps {option.energy:.2%} of its output's energy and takes "
                f"{1 / _ratio(option):.2f} of the time {_than(option)}"
            )
        if option is not None:
            why = _WHY_NOT.get(info.reason) if not info.candidate else "no rank is worth its damage on top of that"
            return "quantized", f"in int8 it takes {1 / _ratio(option):.2f} of the time {_than(option)}" + (
                f"; {why}" if why else ""
            )
        return self._why_kept()

    def _why_kept(self) -> tuple[str, str]:
        info = self.info
        in_float = self.families.low_rank
        if not info.candidate:
            return info.reason, _WHY_NOT.get(info.reason, "it cannot be decomposed") + self._why_float()
        if info.node not in in_float.options:
            return "kept-unknown-shape", _WHY_NOT["kept-unknown-shape"]
        options = in_float.options[info.node]
        if not options:
            return "kept-small", "no rank that fills whole channel blocks has fewer multiply-adds than the Conv"
        if info.node in in_float.excluded:
            return "kept-slower", "it was faster in context but slower in the whole model, so it was reverted"
        paying = in_float.paying.get(info.node)
        if not paying:
            best = max(options, key=_ratio)
            return "kept-slower", (
                f"no rank was faster in context: the fastest of {len(options)}, {best.kind} at rank {best.rank}, took "
                f"{1 / _ratio(best):.2f} of the time of the Conv"
            ) + self._why_float()
        if self.family is None:
            return "kept-original", "the model as a whole was not measurably faster within the accuracy asked for"
        mildest = max(paying, key=lambda candidate: candidate.energy)
        return "kept-sensitive", (
            f"the mildest rank that pays, {mildest.rank} by {mildest.kind}, loses {1 - mildest.energy:.2%} of its "
            "output's energy: too much for the time it saves"
        ) + self._why_float()

    def _why_float(self) -> str:
        """Why it is not in int8, where the rest of the model is."""
        if self.family is None or self.family.precision != "int8":
            return ""
        listed = self.family.options.get(self.info.node)
        if not listed:
            return ""
        dense = listed[0]
        if (dense.saved_ms or 0.0) <= 0:
            return f"; int8 takes {1 / _ratio(dense):.2f} of the time that it takes in float between int8 neighbours"
        return f"; int8 would cost {dense.damage or 0.0:.4f} nats, too much for the time it saves"


def _than(option: Option) -> str:
    return "of the Conv in context" if option.precision == "fp32" else "that the Conv takes in float"


def _ratio(option: Option) -> float:
    if option.ms is None or option.dense_ms is None:
        return option.dense_macs / option.macs if option.macs else 1.0
    return option.dense_ms / option.ms
