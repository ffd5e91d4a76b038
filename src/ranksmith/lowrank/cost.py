"""Multiply-adds of chains, and which ranks are worth trying.

An output-side pair of rank r costs r·(I·kh·kw + O) multiply-adds a position against O·I·kh·kw, so it breaks
even at r* = O·I·kh·kw / (O + I·kh·kw), per group. What a rank is worth in milliseconds only measuring says; but the
runtime's blocked layout pads channels up to a block, so only multiples of the block are worth timing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.errors import RankError
from ranksmith.lowrank.factor import full_rank, kind_named
from ranksmith.lowrank.kinds.base import make_chain
from ranksmith.lowrank.kinds.grouped import join_chains, split_layer
from ranksmith.lowrank.kinds.tucker2 import mode_ranks

__all__ = ["aligned_ranks", "break_even_rank", "chain_macs", "pair_macs_ratio", "skeleton"]


def chain_macs(chain: Sequence[ConvLayer], height: int, width: int) -> int:
    """Multiply-adds of a chain for one input of `height` × `width` (the input's size)."""
    total = 0
    for layer in chain:
        total += layer.macs(height, width)
        height, width = layer.output_size(height, width)
    return total


def skeleton(layer: ConvLayer, kind: str, rank: int) -> tuple[ConvLayer, ...]:
    """The chain of `kind` at `rank` with weights of zero: its shapes, cost and parameters before there are data.

    Raises:
        RankError: a rank outside 1..full.
        UsageError: no such kind.
    """
    full = full_rank(layer, kind)
    if not 1 <= rank <= full:
        raise RankError(f"rank {rank} is outside 1..{full} for {kind}")
    part = split_layer(layer)[0]
    found = kind_named(kind)
    zero = np.zeros((), layer.weight.dtype)
    weights = [np.broadcast_to(zero, shape) for shape in found.shapes(part, rank)]
    has_bias = layer.bias is not None or found.needs is not None
    bias = np.broadcast_to(zero, (part.out_channels,)) if has_bias else None
    return join_chains([make_chain(part, weights, bias)] * layer.group)


def pair_macs_ratio(layer: ConvLayer, kind: str, rank: int, h: int, w: int) -> float:
    """Multiply-adds of the chain over the layer's, for an input of `h` × `w`.

    Raises:
        RankError: a rank outside 1..full.
        UsageError: no such kind.
    """
    return chain_macs(skeleton(layer, kind, rank), h, w) / layer.macs(h, w)


def break_even_rank(layer: ConvLayer) -> int:
    """Below this rank, per group, an output-side pair has fewer multiply-adds than the layer."""
    outputs = layer.out_channels // layer.group
    depth = int(np.prod(layer.weight.shape[1:]))
    return -(-outputs * depth // (outputs + depth))


def aligned_ranks(layer: ConvLayer, kind: str, block: int, *, h: int, w: int, margin: float = 0.0) -> list[int]:
    """Ranks whose channels fill whole blocks and whose chain is cheaper than the layer, in increasing order.

    Args:
        block: channels that the runtime handles at once; ranks are multiples of it, both mode ranks for tucker2.
        h, w: size of the layer's input.
        margin: the chain must have at most (1 − margin) of the layer's multiply-adds.
    """
    cheaper = []
    for rank in range(block, full_rank(layer, kind) + 1, block):
        if kind == "tucker2" and any(mode % block for mode in mode_ranks(split_layer(layer)[0], rank)):
            continue
        ratio = pair_macs_ratio(layer, kind, rank, h, w)
        if ratio < 1 and ratio <= 1 - margin:
            cheaper.append(rank)
    return cheaper
