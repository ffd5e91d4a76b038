"""Tucker-2: 1×1 into r_in channels, a k×k core into r_out channels, 1×1 (Kim et al. 2016).

Initialised by HOSVD on the two channel modes and, where there are input statistics, weighted by them: the
input mode is input-side's A (`shared`), the output mode V the top eigenvectors of W·C·Wᵀ, the core Vᵀ·B with
input-side's least-squares B, which is optimal for these A and V. Without statistics C = I, and all
of it reduces to plain HOSVD.

One parameter ties both ranks: with full mode ranks f_out = min(O, I·kh·kw) and f_in = min(I, O·kh·kw), rank r of
full rank f = max(f_out, f_in) means r_out = ⌈r·f_out/f⌉ and r_in = ⌈r·f_in/f⌉, the same fraction of each mode.

The error is (I − VVᵀ)·y on one side and Vᵀ·(input-side's error) on the other, which are orthogonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Float64, Kind, Shape4, make_chain, weight_matrix
from ranksmith.lowrank.kinds.input_side import INPUT_SPLIT
from ranksmith.lowrank.kinds.projection import full_rank as output_full_rank
from ranksmith.lowrank.kinds.projection import output_basis
from ranksmith.lowrank.kinds.shared import SharedSplit
from ranksmith.lowrank.statistics import Moments

__all__ = ["TUCKER2", "mode_ranks"]


def mode_ranks(layer: ConvLayer, rank: int) -> tuple[int, int]:
    """(r_out, r_in) at `rank`."""
    full = _full_rank(layer)
    return -(-rank * output_full_rank(layer) // full), -(-rank * INPUT_SPLIT.full_rank(layer) // full)


def _full_rank(layer: ConvLayer) -> int:
    return max(output_full_rank(layer), INPUT_SPLIT.full_rank(layer))


def _shapes(layer: ConvLayer, rank: int) -> tuple[Shape4, ...]:
    outside, inside = mode_ranks(layer, rank)
    return (
        (inside, layer.in_channels, 1, 1),
        (outside, inside, *layer.kernel),
        (layer.out_channels, outside, 1, 1),
    )


@dataclass(frozen=True, eq=False)
class _TuckerAnalysis:
    layer: ConvLayer
    split: SharedSplit
    basis: Float64

    @property
    def energy(self) -> float:
        return float(np.trace(self.split.output))

    def factors(self, rank: int) -> tuple[ConvLayer, ...]:
        outside, inside = mode_ranks(self.layer, rank)
        solution = self.split.solve(inside)
        basis = self.basis[:, :outside]
        core = np.tensordot(basis.T, solution.second, 1)
        own = np.zeros(self.layer.out_channels) if self.layer.bias is None else np.asarray(self.layer.bias, np.float64)
        parts = (solution.first, core, basis)
        weights = [part.reshape(shape) for part, shape in zip(parts, _shapes(self.layer, rank), strict=True)]
        return make_chain(self.layer, weights, self.split.bias(own, np.tensordot(basis, core, 1)))

    def squared_error(self, rank: int) -> float:
        outside, inside = mode_ranks(self.layer, rank)
        basis = self.basis[:, :outside]
        kept = np.sum((self.split.output @ basis) * basis)
        within = np.sum((self.split.solve(inside).error @ basis) * basis)
        return max(0.0, self.energy - float(kept) + float(within))

    def projection(self, rank: int) -> None:
        """Not a function of the output alone."""


def _analyse(layer: ConvLayer, moments: Moments | None) -> _TuckerAnalysis:
    split = INPUT_SPLIT.analyse(layer, moments)
    basis, _ = output_basis(weight_matrix(layer), split.output)
    return _TuckerAnalysis(layer, split, basis)


TUCKER2 = Kind(
    name="tucker2",
    needs="input",
    optional=True,
    description="1×1, k×k core, 1×1; one fraction of both channel modes",
    full_rank=_full_rank,
    shapes=_shapes,
    analyse=_analyse,
)
