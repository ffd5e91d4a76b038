"""How the columns' index (channel, kernel row, kernel column) splits into s, shared, and k, the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Shape4

__all__ = ["IndexSplit"]


@dataclass(frozen=True)
class IndexSplit:
    """Which axes of (channel, kernel row, kernel column) come first, and how many of them A acts on."""

    order: tuple[int, int, int]
    shared: int

    def columns(self, layer: ConvLayer) -> NDArray[np.intp]:
        """[s, k]: where each (s, k) stands among a column's entries."""
        dims = layer.weight.shape[1:]
        size = int(np.prod([dims[axis] for axis in self.order[: self.shared]]))
        return np.arange(int(np.prod(dims))).reshape(dims).transpose(self.order).reshape(size, -1)

    def full_rank(self, layer: ConvLayer) -> int:
        """min(|s|, O·|k|)"""
        size, rest = self.columns(layer).shape
        return int(min(size, layer.out_channels * rest))

    def shapes(self, layer: ConvLayer, rank: int) -> tuple[Shape4, ...]:
        """Kernel axes in s belong to A, the others to B."""
        (kh, kw), on_first = layer.kernel, self.order[: self.shared]
        first_kh, first_kw = (kh if 1 in on_first else 1), (kw if 2 in on_first else 1)
        return (
            (rank, layer.in_channels, first_kh, first_kw),
            (layer.out_channels, rank, kh // first_kh, kw // first_kw),
        )
