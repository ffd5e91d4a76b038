"""What the numbers of a manifest say, in words: the sentences and derived figures that the page shows.

Nothing here is measured or judged anew; a claim that the numbers do not carry is not made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ranksmith.report import text
from ranksmith.report.decisions import changed
from ranksmith.report.families import is_plan
from ranksmith.results import LatencyPair, LayerRecord, Manifest

__all__ = [
    "BeforeAfter",
    "Change",
    "DropScale",
    "ReasonGroup",
    "before_after",
    "change",
    "drop_scale",
    "reason_groups",
    "summary",
]

_REASONS = {
    "quantized": "Computes in 8-bit integers, in the shape that it had.",
    "decomposed": "Replaced by a low-rank chain that is faster here at a loss the model can bear.",
    "kept-sensitive": "A rank that pays exists, but would cost more accuracy than its time is worth.",
    "kept-slower": "Every rank was measured, in context, to be no faster than the Conv itself.",
    "kept-original": "The model as a whole did not become measurably faster, so nothing was changed.",
    "kept-stem": "The first Conv has too few input channels to gain anything.",
    "kept-small": "No rank that fills whole channel blocks is cheaper than the Conv.",
    "kept-depthwise": "A depthwise Conv is of rank one already.",
    "kept-grouped": "Its groups leave too little to factor.",
    "kept-shared-weight": "Its weight is shared with another node.",
    "kept-not-2d": "Only 2-D Convs are decomposed.",
    "kept-dynamic-weight": "Its weight is computed at run time.",
    "kept-unknown-shape": "The size of its input is not known, so it cannot be timed.",
    "kept-auto-pad": "Its padding depends on an image size that is not fixed.",
}


_LEADING = {"decomposed": 0, "quantized": 1}

_UNLABELLED = " They have no labels: agreement stands in for accuracy."


@dataclass(frozen=True)
class BeforeAfter:
    """Median latencies of one batch size, with bar lengths in percent of the longer one."""

    pair: LatencyPair
    baseline_ms: float
    result_ms: float
    baseline_percent: float
    result_percent: float


@dataclass(frozen=True)
class Change:
    """What happened to the accuracy: `lost` or `gained`, with the interval on the same side."""

    word: str
    pp: float
    low: float
    high: float


@dataclass(frozen=True)
class DropScale:
    """Where things lie on the line that shows the drop and its interval, in percent of its length."""

    zero: float
    budget: float
    low: float
    high: float
    drop: float
    beyond: bool
    """The drop itself lies beyond what was asked for."""
    uncertain: bool
    """It lies within, but its interval reaches beyond."""


@dataclass(frozen=True)
class ReasonGroup:
    """The Convs that share a reason, and their time in the whole model before and after."""

    reason: str
    meaning: str
    convs: int
    before_ms: float | None
    after_ms: float | None
    changed: bool
    """They compute otherwise than in the original."""


def before_after(manifest: Manifest) -> list[BeforeAfter]:
    rows = []
    for pair in manifest.latency:
        baseline, result = float(np.median(pair.baseline_ms)), float(np.median(pair.result_ms))
        longer = max(baseline, result)
        rows.append(BeforeAfter(pair, baseline, result, 100 * baseline / longer, 100 * result / longer))
    return rows


def change(manifest: Manifest) -> Change:
    drop, (low, high) = manifest.accuracy.drop_pp, manifest.accuracy.drop_ci95_pp
    return Change("lost", drop, low, high) if drop >= 0 else Change("gained", -drop, -high, -low)


def drop_scale(manifest: Manifest) -> DropScale:
    accuracy = manifest.accuracy
    low, high = accuracy.drop_ci95_pp
    budget = manifest.max_drop_pp
    start, end = min(low, 0.0), max(high, budget, 0.1)
    beyond = accuracy.drop_pp > budget
    room = 0.08 * (end - start)
    start, end = start - room, end + room

    def place(value: float) -> float:
        return 100 * (value - start) / (end - start)

    return DropScale(
        place(0.0),
        place(budget),
        place(low),
        place(high),
        place(accuracy.drop_pp),
        beyond,
        high > budget and not beyond,
    )


def reason_groups(layers: list[LayerRecord]) -> list[ReasonGroup]:
    """Largest share of the original's time first; the changed ones lead."""
    groups = []
    for reason in dict.fromkeys(layer.reason for layer in layers):
        members = [layer for layer in layers if layer.reason == reason]
        groups.append(
            ReasonGroup(
                reason,
                _REASONS.get(reason, ""),
                len(members),
                _sum([layer.baseline_ms for layer in members]),
                _sum([layer.measured_ms for layer in members]),
                changed(members[0]),
            )
        )
    return sorted(groups, key=lambda group: (_LEADING.get(group.reason, 2), -(group.before_ms or 0.0), group.reason))


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def summary(manifest: Manifest) -> str:
    """The result in one or two sentences, under the headline."""
    return _faster(manifest) if manifest.verdict == "faster" else _kept(manifest)


def _faster(manifest: Manifest) -> str:
    accuracy = manifest.accuracy
    speed = ""
    if manifest.latency:
        first = before_after(manifest)[0]
        what = "One image" if first.pair.batch == 1 else f"A batch of {first.pair.batch}"
        speed = f"{what} takes {text.milliseconds(first.result_ms)} instead of {text.milliseconds(first.baseline_ms)}. "
    return (
        f"{speed}{_work(manifest)}"
        f"The answer is the original's on {text.percent(accuracy.agreement)} of {accuracy.images:,} images "
        f"that took no part in making it.{'' if accuracy.labelled else _UNLABELLED}"
    )


def _work(manifest: Manifest) -> str:
    """What was done to the Convs, where int8 has a part in it: how many are low-rank, how many int8."""
    quantised = sum(layer.precision == "int8" for layer in manifest.layers)
    if not quantised:
        return ""
    low_rank = sum(layer.rank is not None for layer in manifest.layers)
    of = f"of its {len(manifest.layers)} Convs"
    if not low_rank:
        return f"{quantised} {of} compute in 8-bit integers. "
    return f"{low_rank} {of} are low-rank, {quantised} compute in 8-bit integers. "


def _kept(manifest: Manifest) -> str:
    plans = [point for point in manifest.frontier if is_plan(point)]
    what = "top-1" if manifest.accuracy.labelled else "agreement"
    if plans:
        judged = "1 plan was judged" if len(plans) == 1 else f"{len(plans)} plans were judged"
        within = sum(point.selection_drop_pp <= manifest.max_drop_pp for point in plans)
        tried = (
            f"{judged}, {within or 'none'} of them within {manifest.max_drop_pp:g} pp of {what} "
            f"on the images to choose on. None proved to be both certain enough of that and measurably faster."
        )
    else:
        tried = "No rank of any Conv saved time in context, so there was no plan to judge."
    return f"{tried} The bundle holds the folded original: the same answers, no slower."
