"""Pairs built on a shared index of the columns (`shared`): input-side, vertical and horizontal spatial.

- input-side: 1×1 into r channels (A), then k×k (B); s = channel.
- spatial-vertical: kh×1 into r channels (A), then 1×kw (B); s = (channel, kernel row).
- spatial-horizontal: 1×kw into r channels (A), then kh×1 (B); s = (channel, kernel column).

Full rank is min(|s|, O·|k|): A cannot have more independent rows than columns, nor the pair need more
channels than the second factor has rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Float64, Kind, Source, make_chain, own_bias
from ranksmith.lowrank.kinds.index import IndexSplit
from ranksmith.lowrank.kinds.refine import refine, worthwhile
from ranksmith.lowrank.kinds.shared import SharedSplit, split_columns
from ranksmith.lowrank.weighting import Weighting

__all__ = ["PairAnalysis", "pair_kind"]


@dataclass(frozen=True, eq=False)
class PairAnalysis:
    """All ranks of A then B. `weighting` is G, [O, O]."""

    layer: ConvLayer
    index: IndexSplit
    split: SharedSplit
    weighting: Float64

    @property
    def energy(self) -> float:
        return self.split.energy

    def factors(self, rank: int, rounds: int) -> tuple[ConvLayer, ...]:
        split = self.split
        if rounds and worthwhile(split, rank):
            first, second = refine(split, rank, self.weighting, rounds)
        else:
            first, second = split.basis[:rank], split.system(rank).solve(rank * split.rest)
        first_shape, second_shape = self.index.shapes(self.layer, rank)
        # s runs as (channel, axis of A) and k as the rest in order, so both reshape straight to their kernels.
        return make_chain(
            self.layer,
            (first.reshape(first_shape), second.T.reshape(second_shape)),
            own_bias(self.layer) + split.offset(first, second),
        )

    def squared_errors(self, ranks: Sequence[int]) -> Float64:
        system = self.split.system(max(ranks))
        return np.array([self.split.squared_error(system.solve(rank * self.split.rest)) for rank in ranks])

    def projection(self, rank: int) -> None:
        """Not a function of the output alone."""


def _analyse(index: IndexSplit, layer: ConvLayer, source: Source | None, weighting: Weighting) -> PairAnalysis:
    assert source is not None
    return PairAnalysis(layer, index, split_columns(layer, source, index, weighting.matrix), weighting.matrix)


def pair_kind(name: str, index: IndexSplit, description: str) -> Kind:
    """The kind that splits the columns by `index`."""
    return Kind(
        name=name,
        needs="input",
        optional=False,
        description=description,
        full_rank=index.full_rank,
        shapes=index.shapes,
        analyse=partial(_analyse, index),
    )
