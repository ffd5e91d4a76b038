"""Pairs built on a shared index of the columns (`shared`): input-side, vertical and horizontal spatial.

- input-side: 1×1 into r channels (A), then k×k (B); s = channel.
- spatial-vertical: kh×1 into r channels (A), then 1×kw (B); s = (channel, kernel row).
- spatial-horizontal: 1×kw into r channels (A), then kh×1 (B); s = (channel, kernel column).

Full rank is min(|s|, O·|k|): A cannot have more independent rows than columns, nor the pair need more
channels than the second factor has rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Kind, Shape4, identity_moments, make_chain, weight_matrix
from ranksmith.lowrank.kinds.shared import SharedSplit, split_columns
from ranksmith.lowrank.statistics import Moments

__all__ = ["IndexSplit", "PairAnalysis", "pair_kind"]


@dataclass(frozen=True)
class IndexSplit:
    """Which axes of (channel, kernel row, kernel column) come first, and how many of them A acts on."""

    order: tuple[int, int, int]
    shared: int

    def sizes(self, layer: ConvLayer) -> tuple[int, int]:
        """(|s|, |k|)"""
        dims = layer.weight.shape[1:]
        return (
            int(np.prod([dims[axis] for axis in self.order[: self.shared]])),
            int(np.prod([dims[axis] for axis in self.order[self.shared :]])),
        )

    def full_rank(self, layer: ConvLayer) -> int:
        size, rest = self.sizes(layer)
        return min(size, layer.out_channels * rest)

    def shapes(self, layer: ConvLayer, rank: int) -> tuple[Shape4, ...]:
        """Kernel axes in s belong to A, the others to B."""
        (kh, kw), on_first = layer.kernel, self.order[: self.shared]
        first_kh, first_kw = (kh if 1 in on_first else 1), (kw if 2 in on_first else 1)
        return (
            (rank, layer.in_channels, first_kh, first_kw),
            (layer.out_channels, rank, kh // first_kh, kw // first_kw),
        )

    def analyse(self, layer: ConvLayer, moments: Moments | None) -> SharedSplit:
        """The split of a layer of one group; without moments, for white inputs."""
        if moments is None:
            moments = identity_moments(weight_matrix(layer).shape[1])
        return split_columns(np.asarray(layer.weight, np.float64), moments, self.order, self.shared)


@dataclass(frozen=True, eq=False)
class PairAnalysis:
    """All ranks of A then B."""

    layer: ConvLayer
    index: IndexSplit
    split: SharedSplit

    @property
    def energy(self) -> float:
        return float(np.trace(self.split.output))

    def factors(self, rank: int) -> tuple[ConvLayer, ...]:
        solution = self.split.solve(rank)
        own = np.zeros(self.layer.out_channels) if self.layer.bias is None else np.asarray(self.layer.bias, np.float64)
        first, second = self.index.shapes(self.layer, rank)
        # s runs as (channel, axis of A) and k as the rest in order, so both reshape straight to their kernels.
        return make_chain(
            self.layer,
            (solution.first.reshape(first), solution.second.reshape(second)),
            self.split.bias(own, solution.second),
        )

    def squared_error(self, rank: int) -> float:
        return max(0.0, float(np.trace(self.split.solve(rank).error)))

    def projection(self, rank: int) -> None:
        """Not a function of the output alone."""


def _analyse(index: IndexSplit, layer: ConvLayer, moments: Moments | None) -> PairAnalysis:
    return PairAnalysis(layer, index, index.analyse(layer, moments))


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
