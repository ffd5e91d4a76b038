"""Each Conv's story: what was considered, what was decided and why, in one word and one sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ranksmith.results import ConvInfo, LayerRecord
from ranksmith.search.candidates import Option
from ranksmith.workflow.compress.consider import Considered
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
    prepared: Prepared,
    considered: Mapping[str, Considered],
    chosen: Mapping[str, Option],
    *,
    kept_original: bool,
    reverted: Collection[str],
    dense_ms: Mapping[str, float],
    result_ms: Mapping[str, float],
) -> list[LayerRecord]:
    """One record per Conv, in graph order.

    Args:
        chosen: the option of each decomposed node.
        kept_original: the bundle holds the folded original, whatever was chosen.
        reverted: nodes that were slower in the whole model than the Conv they came from.
        dense_ms, result_ms: of each Conv in the whole folded model and in the whole result, profiled;
            empty where the runtime cannot say.
    """
    return [
        _record(
            info,
            considered.get(info.node),
            chosen.get(info.node),
            kept_original=kept_original,
            reverted=info.node in reverted,
            dense_ms=dense_ms.get(info.node),
            result_ms=result_ms.get(info.node),
        )
        for info in prepared.infos
    ]


def _record(
    info: ConvInfo,
    seen: Considered | None,
    option: Option | None,
    *,
    kept_original: bool,
    reverted: bool,
    dense_ms: float | None,
    result_ms: float | None,
) -> LayerRecord:
    reason, detail = _reason(info, seen, option, kept_original=kept_original, reverted=reverted)
    decomposed = reason == "decomposed" and option is not None
    predicted = dense_ms
    if decomposed and option and dense_ms is not None:
        # The saving measured in context, on the scale of the whole model.
        predicted = dense_ms / _ratio(option)
    return LayerRecord(
        node=info.node,
        kind=option.kind if decomposed and option else None,
        rank=option.rank if decomposed and option else None,
        full_rank=info.full_rank,
        break_even_rank=info.break_even_rank,
        precision="fp32",
        macs_before=info.macs,
        macs_after=option.macs if decomposed and option else info.macs,
        retained_energy=option.energy if decomposed and option else None,
        predicted_ms=predicted,
        measured_ms=result_ms,
        baseline_ms=dense_ms,
        reason=reason,
        detail=detail,
    )


def _reason(
    info: ConvInfo, seen: Considered | None, option: Option | None, *, kept_original: bool, reverted: bool
) -> tuple[str, str]:
    if not info.candidate:
        return info.reason, _WHY_NOT.get(info.reason, "it cannot be decomposed")
    if seen is None:
        return "kept-unknown-shape", _WHY_NOT["kept-unknown-shape"]
    if not seen.options:
        return "kept-small", "no rank that fills whole channel blocks has fewer multiply-adds than the Conv"
    if not seen.paying:
        best = max(seen.options, key=_ratio)
        detail = (
            f"no rank was faster in context: the fastest of {len(seen.options)}, rank {best.rank}, took "
            f"{1 / _ratio(best):.2f} of the time of the Conv"
        )
        return "kept-slower", detail
    if reverted:
        return "kept-slower", "it was faster in context but slower in the whole model, so it was reverted"
    if kept_original:
        return "kept-original", "the model as a whole was not measurably faster within the accuracy asked for"
    if option is None:
        mildest = max(seen.paying, key=lambda candidate: candidate.energy)
        detail = (
            f"the mildest rank that pays, {mildest.rank}, loses {1 - mildest.energy:.2%} of its output's energy: "
            "too much for the time it saves"
        )
        return "kept-sensitive", detail
    detail = (
        f"rank {option.rank} keeps {option.energy:.2%} of its output's energy and takes "
        f"{1 / _ratio(option):.2f} of the time of the Conv in context"
    )
    return "decomposed", detail


def _ratio(option: Option) -> float:
    if option.ms is None or option.dense_ms is None:
        return option.dense_macs / option.macs
    return option.dense_ms / option.ms
