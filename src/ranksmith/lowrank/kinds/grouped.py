"""Lift any kind to grouped Convs: each group is factored by itself, all with one shared rank.

The factors of group g are block g of a chain of grouped Convs with the same number of groups, so a rank r
stands for group·r channels between the factors. Depthwise Convs, with one channel a group, have
nothing to factor; callers leave them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.linalg import block_diag

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Projection
from ranksmith.lowrank.statistics import Moments

__all__ = ["join_chains", "join_projections", "output_moments", "split_layer"]


def split_layer(layer: ConvLayer) -> list[ConvLayer]:
    """The layer of each group, as an ungrouped Conv."""
    weights = np.split(layer.weight, layer.group)
    biases = [None] * layer.group if layer.bias is None else np.split(layer.bias, layer.group)
    return [replace(layer, weight=w, bias=b, group=1) for w, b in zip(weights, biases, strict=True)]


def output_moments(moments: Moments, group: int) -> list[Moments]:
    """Each group's part of the moments of a grouped Conv's output."""
    size = len(moments.mean) // group
    parts = [slice(start, start + size) for start in range(0, len(moments.mean), size)]
    return [Moments(moments.mean[part], moments.covariance[part, part], moments.count) for part in parts]


def join_chains(chains: Sequence[tuple[ConvLayer, ...]]) -> tuple[ConvLayer, ...]:
    """The grouped chain of the groups' chains."""
    if len(chains) == 1:
        return chains[0]
    joined = []
    for parts in zip(*chains, strict=True):
        biases = [part.bias for part in parts if part.bias is not None]
        joined.append(
            replace(
                parts[0],
                weight=np.concatenate([part.weight for part in parts]),
                bias=np.concatenate(biases) if biases else None,
                group=len(chains),
            )
        )
    return tuple(joined)


def join_projections(projections: Sequence[Projection]) -> Projection:
    """The block-diagonal projection of the groups' projections."""
    return block_diag(*(matrix for matrix, _ in projections)), np.concatenate([offset for _, offset in projections])
