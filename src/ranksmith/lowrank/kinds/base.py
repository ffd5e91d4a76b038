"""What a decomposition kind is, and where its factors' strides, pads and dilations go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.statistics import Moments
from ranksmith.lowrank.weighting import Weighting

__all__ = [
    "Analysis",
    "Float64",
    "Kind",
    "Projection",
    "Shape4",
    "Source",
    "identity_moments",
    "make_chain",
    "own_bias",
    "weight_matrix",
]

Float64 = NDArray[np.float64]
Projection = tuple[Float64, Float64]
Shape4 = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Source:
    """Moments of a layer of one group, made when they are asked for.

    They are kept, and so should be shared by the kinds that read them: a 4608-column covariance takes 170 MB.
    """

    layer: ConvLayer
    make: Callable[[], Moments]

    @cached_property
    def moments(self) -> Moments:
        return self.make()

    @cached_property
    def spread(self) -> Float64:
        """C·Wᵀ [d, O] of the columns' covariance."""
        return self.moments.covariance @ weight_matrix(self.layer).T


class Analysis(Protocol):
    """A layer of one group, analysed once for all ranks."""

    @property
    def energy(self) -> float:
        """E‖y − ȳ‖², what `squared_error` is relative to."""
        ...

    def factors(self, rank: int, rounds: int) -> tuple[ConvLayer, ...]:
        """The chain at `rank`, first to last, after at most `rounds` rounds of refinement by kinds that have one."""
        ...

    def squared_errors(self, ranks: Sequence[int]) -> Float64:
        """E‖ŷ − y‖² at each rank, without building the chains."""
        ...

    def projection(self, rank: int) -> Projection | None:
        """(P [O, O], offset [O]) with ŷ = P·y + offset, where the kind is one."""
        ...


@dataclass(frozen=True, eq=False)
class Kind:
    """A decomposition kind.

    Attributes:
        name: as in plans and on the command line.
        needs: the statistics it is made from: of the layer's "output", of its "input", or None.
        optional: it can do without the statistics it needs, less well.
        description: one line for users.
        full_rank: the rank at which a layer of one group is reproduced exactly.
        shapes: weight shapes of the factors of a layer of one group at a rank.
        analyse: the analysis of a layer of one group, from its moments and the weighting of its outputs.
    """

    name: str
    needs: Literal["output", "input"] | None
    optional: bool
    description: str
    full_rank: Callable[[ConvLayer], int]
    shapes: Callable[[ConvLayer, int], tuple[Shape4, ...]]
    analyse: Callable[[ConvLayer, Source | None, Weighting], Analysis]


def weight_matrix(layer: ConvLayer) -> Float64:
    """The weight of a layer of one group as [O, I·kh·kw], float64."""
    return np.asarray(layer.weight, np.float64).reshape(layer.out_channels, -1)


def own_bias(layer: ConvLayer) -> Float64:
    """The layer's bias, float64; zeros where it has none."""
    return np.zeros(layer.out_channels) if layer.bias is None else np.asarray(layer.bias, np.float64)


def identity_moments(size: int) -> Moments:
    """Of white noise: what a data-free kind assumes of its input."""
    return Moments(np.zeros(size), np.eye(size))


def make_chain(
    layer: ConvLayer, weights: Sequence[NDArray[np.floating[Any]]], bias: NDArray[np.floating[Any]] | None
) -> tuple[ConvLayer, ...]:
    """Factors with `layer`'s geometry; the bias is the last factor's.

    Along each axis one factor carries the stride, the pads and the dilation: the one whose kernel extends
    along it, or the first where none does. As no factor before the last has a bias, a zero that is padded
    to what lies between two factors is the response to padded zeros, so the padding is exact; and a first
    factor that carries a stride spares the second the work.
    """
    carriers = [next((i for i, w in enumerate(weights) if w.shape[axis] > 1), 0) for axis in (2, 3)]
    top, left, bottom, right = layer.pads
    chain = []
    for index, weight in enumerate(weights):
        vertical, horizontal = (carrier == index for carrier in carriers)
        chain.append(
            ConvLayer(
                weight=weight.astype(layer.weight.dtype, copy=False),
                bias=bias.astype(layer.weight.dtype) if bias is not None and index == len(weights) - 1 else None,
                strides=(layer.strides[0] if vertical else 1, layer.strides[1] if horizontal else 1),
                pads=(
                    top if vertical else 0,
                    left if horizontal else 0,
                    bottom if vertical else 0,
                    right if horizontal else 0,
                ),
                dilations=(layer.dilations[0] if vertical else 1, layer.dilations[1] if horizontal else 1),
            )
        )
    return tuple(chain)
