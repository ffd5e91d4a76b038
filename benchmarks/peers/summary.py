"""What was measured, in numbers with intervals: each method's models, and the methods at equal milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.measure.bootstrap import mean_ci95
from ranksmith.results import Interval

from .equal_time import Mix, agreement_ci95, at_speedup, blend, difference, verdict
from .measured import Answers, Condition, Model, Timing
from .setting import Method

__all__ = ["Measured", "anchor_line", "described", "equal_time"]


@dataclass
class Measured:
    """A method's models, with their answers and their times by condition."""

    method: Method
    models: list[Model] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    timings: dict[Condition, list[Timing]] = field(default_factory=dict)

    def speedups(self, condition: Condition) -> list[float]:
        return [timing.speedup.ratio for timing in self.timings[condition]]


def described(measured: Measured, seed: int) -> dict[str, Any]:
    points = []
    for place, (model, answers) in enumerate(zip(measured.models, measured.answers, strict=True)):
        speedup = {
            str(condition): {
                "ratio": timings[place].speedup.ratio,
                "ci95": timings[place].speedup.ci95,
                "ms": timings[place].ms,
                "folded_ms": timings[place].folded_ms,
            }
            for condition, timings in measured.timings.items()
        }
        known = {"label": model.candidate.label, "parameter": model.candidate.parameter, "sha256": model.sha256}
        size = {"bytes": model.bytes, "macs": model.macs}
        points.append({**known, **size, "speedup": speedup, **judged(answers.lost, answers.agreeing, answers.kl, seed)})
    method = measured.method
    return {"name": method.name, "title": method.title, "about": method.about, "points": points}


def judged(lost: NDArray, agreeing: NDArray, kl: NDArray, seed: int) -> dict[str, Any]:
    def entry(values: NDArray, ci95: Interval) -> dict[str, Any]:
        return {"mean": float(values.mean()), "ci95": ci95}

    return {
        "drop_pp": entry(100 * lost, mean_ci95(100 * lost, seed)),
        "agreement": entry(agreeing, agreement_ci95(agreeing, seed)),
        "kl": entry(kl, mean_ci95(kl, seed)),
    }


def equal_time(
    measured: Sequence[Measured], original: Answers, condition: Condition, target: float, seed: int
) -> dict[str, Any]:
    """Every method at `target`, and ours against each: the first of ours that reaches it."""

    def mixed(each: Measured, mix: Mix, what: str) -> NDArray:
        return blend(mix, [getattr(answers, what) for answers in each.answers], getattr(original, what))

    mixes = [at_speedup(each.speedups(condition), target, from_original=each.method.from_original) for each in measured]
    reached = [
        (each, mix)
        for each, mix in zip(measured, mixes, strict=True)
        if each.method.name.startswith("ranksmith") and mix.how != "not reached"
    ]
    ours = {what: mixed(*reached[0], what) for what in ("agreeing", "kl")} if reached else None
    ours_title = reached[0][0].method.title if reached else None
    rows = []
    for each, mix in zip(measured, mixes, strict=True):
        row: dict[str, Any] = {"method": each.method.name, "title": each.method.title, "how": mix.how}
        if mix.how == "not reached":
            rows.append({**row, "fastest": max(each.speedups(condition), default=1.0)})
            continue
        agreeing, kl = mixed(each, mix, "agreeing"), mixed(each, mix, "kl")
        versus = None if ours is None or each.method.title == ours_title else compared(ours, agreeing, kl, seed)
        labels = {index: model.candidate.label for index, model in enumerate(each.models)}
        parts = [{"label": "the original" if i is None else labels[i], "weight": weight} for i, weight in mix.parts]
        judgement = judged(mixed(each, mix, "lost"), agreeing, kl, seed)
        rows.append({**row, "speedup": mix.speedup, "parts": parts, **judgement, "versus": versus})
    return {"target": target, "condition": str(condition), "ours": ours_title, "rows": rows}


def compared(ours: dict[str, NDArray], agreeing: NDArray, kl: NDArray, seed: int) -> dict[str, Any]:
    """Ours against another method on the same images; of KL less is better, so it is compared with its sign turned."""
    more, more_ci95 = difference(ours["agreeing"], agreeing, seed)
    closer, closer_ci95 = difference(-ours["kl"], -kl, seed)
    return {
        "agreement_pp": 100 * more,
        "agreement_ci95_pp": [100 * edge for edge in more_ci95],
        "agreement": verdict(agreement_ci95(ours["agreeing"], seed), agreement_ci95(agreeing, seed), more_ci95),
        "kl_saved": closer,
        "kl_saved_ci95": closer_ci95,
        "kl": verdict(mean_ci95(-ours["kl"], seed), mean_ci95(-kl, seed), closer_ci95),
    }


def anchor_line(measured: Sequence[Measured], condition: Condition) -> str:
    """How far times from different heats can be compared: one model was in all of them."""
    ratios = {timing.anchor for each in measured for timing in each.timings[condition] if timing.anchor is not None}
    if len(ratios) < 2:
        return ""
    return (
        f"One model of ours took part in all {len(ratios)} heats of {condition}: its speed-up was "
        f"{min(ratios):.3f}x to {max(ratios):.3f}x, median {np.median(sorted(ratios)):.3f}x."
    )
