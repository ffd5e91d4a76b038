"""Tucker-2: 1×1 into r_in channels, a k×k core into r_out channels, 1×1 (Kim et al. 2016).

Initialised by HOSVD on the two channel modes and, where there are input statistics, weighted by them: the
input mode is input-side's A (`shared`); the output mode, in the metric G = DᵀD, R = Vᵀ·D and L = D⁻¹·V with V the top
eigenvectors of D·W·C·Wᵀ·Dᵀ; the core R·B with input-side's least-squares B, which is optimal for these A, R and L.
Without statistics C = I, and all of it reduces to plain HOSVD where G = I.

One parameter ties both ranks: with full mode ranks f_out = min(O, I·kh·kw) and f_in = min(I, O·kh·kw), rank r of
full rank f = max(f_out, f_in) means r_out = ⌈r·f_out/f⌉ and r_in = ⌈r·f_in/f⌉, the same fraction of each mode.

With ŷ' = B·P·x input-side's output, E‖L·R·ŷ' − y‖² = tr Cov(y) − 2·tr L·R·Cov(ŷ', y) + tr L·R·Cov(ŷ')·Rᵀ·Lᵀ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import (
    Float64,
    Kind,
    Shape4,
    Source,
    identity_moments,
    make_chain,
    own_bias,
    weight_matrix,
)
from ranksmith.lowrank.kinds.input_side import INPUT_SPLIT
from ranksmith.lowrank.kinds.nested import NestedSystem
from ranksmith.lowrank.kinds.projection import full_rank as output_full_rank
from ranksmith.lowrank.kinds.projection import output_basis
from ranksmith.lowrank.kinds.shared import SharedSplit, split_columns
from ranksmith.lowrank.weighting import Weighting

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
    """Attributes: `left` L [O, f_out] and `right` R [f_out, O], of which rank r takes the first r_out."""

    layer: ConvLayer
    split: SharedSplit
    left: Float64
    right: Float64

    @property
    def energy(self) -> float:
        return self.split.energy

    def factors(self, rank: int, rounds: int) -> tuple[ConvLayer, ...]:
        outside, inside = mode_ranks(self.layer, rank)
        first, left = self.split.basis[:inside], self.left[:, :outside]
        core = self.right[:outside] @ self.split.system(inside).solve(inside * self.split.rest).T
        parts = (first, core, left)
        weights = [part.reshape(shape) for part, shape in zip(parts, _shapes(self.layer, rank), strict=True)]
        bias = own_bias(self.layer) + self.split.offset(first, (left @ core).T)
        return make_chain(self.layer, weights, bias)

    def squared_errors(self, ranks: Sequence[int]) -> Float64:
        system = self.split.system(max(mode_ranks(self.layer, rank)[1] for rank in ranks))
        return np.array([self._squared_error(system, *mode_ranks(self.layer, rank)) for rank in ranks])

    def _squared_error(self, system: NestedSystem, outside: int, inside: int) -> float:
        left, right = self.left[:, :outside], self.right[:outside]
        second = system.solve(inside * self.split.rest)
        core = second @ right.T
        explained = np.vdot(core, self.split.cross[: len(core)] @ left)
        spread = np.vdot(core @ (left.T @ left), self.split.remainder(second) @ right.T)
        squared = float(np.trace(self.split.output) - 2 * explained + spread)
        return self.split.told(core @ left.T, squared)

    def projection(self, rank: int) -> None:
        """Not a function of the output alone."""


def _analyse(layer: ConvLayer, source: Source | None, weighting: Weighting) -> _TuckerAnalysis:
    matrix = weight_matrix(layer)
    white = Source(layer, partial(identity_moments, matrix.shape[1]))
    split = split_columns(layer, source or white, INPUT_SPLIT, weighting.matrix)
    return _TuckerAnalysis(layer, split, *output_basis(matrix, split.output, weighting))


TUCKER2 = Kind(
    name="tucker2",
    needs="input",
    optional=True,
    description="1×1, k×k core, 1×1; one fraction of both channel modes",
    full_rank=_full_rank,
    shapes=_shapes,
    analyse=_analyse,
)
