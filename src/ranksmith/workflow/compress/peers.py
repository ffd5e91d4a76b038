"""What a user would try first, on the same axes: SVD of every weight, at one fraction of full rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranksmith.lowrank.cost import chain_macs, skeleton
from ranksmith.lowrank.factor import full_rank
from ranksmith.results import PlanEntry, RankPlan
from ranksmith.runtime.machine import channel_block
from ranksmith.workflow.compress.frontier import Judge, Tried
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.images import ImageSet

__all__ = ["uniform_svd"]

_KIND = "weight-svd"
_FRACTIONS = np.linspace(0.95, 0.1, 18)


def uniform_svd(job: Job, prepared: Prepared, judge: Judge, tried: Sequence[Tried], images: ImageSet) -> list[Tried]:
    """Weight SVD of all Convs, at the fraction that saves as many multiply-adds as the strongest float plan accepted.

    Its ranks fill whole channel blocks, as ours do, so that only the choice of ranks and factors differs. Where no
    float plan was accepted, the mildest stands for it.
    """
    in_float = [one for one in tried if one.plan.precision == "fp32"]
    accepted = [one.macs_saved for one in in_float if one.is_accepted(job.options.confidence)]
    saved = max(accepted) if accepted else min((one.macs_saved for one in in_float), default=0)
    if not saved:
        return []
    block = channel_block(job.options.provider)
    choices = [_at(prepared, float(fraction), block) for fraction in _FRACTIONS]
    entries, macs, params = min(choices, key=lambda choice: abs(choice[1] - saved))
    plan = RankPlan(source_sha256=prepared.source_sha256, layers=entries)
    return [Tried(plan, None, {}, judge(plan, images), None, peer_saved=(macs, params))] if entries else []


def _at(prepared: Prepared, fraction: float, block: int) -> tuple[list[PlanEntry], int, int]:
    """The entries at one fraction of full rank, and the multiply-adds and parameters that they save."""
    entries, macs, params = [], 0, 0
    for node, layer in prepared.layers.items():
        size = prepared.contexts[node].input_hw
        rank = int(full_rank(layer, _KIND) * fraction) // block * block
        if size is None or rank < block:
            continue
        chain = skeleton(layer, _KIND, rank)
        gain = layer.macs(*size) - chain_macs(chain, *size)
        if gain > 0:
            entries.append(PlanEntry(node=node, kind=_KIND, rank=rank))
            macs += gain
            params += layer.parameters - sum(part.parameters for part in chain)
    return entries, macs, params
