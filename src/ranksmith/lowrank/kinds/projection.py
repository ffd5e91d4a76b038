"""Kinds that project the output onto r of its directions: weight SVD and output PCA.

With L [O, r] and R [r, O], R·L = I, W [O, I·kh·kw] and output y = W·x + b about its mean ȳ:

- first Conv: weight R·W (shape [r, I, kh, kw], the layer's stride, pads, dilation), no bias;
- second Conv: weight L (shape [O, r, 1, 1]), bias L·R·(b − c) + c,

so that ŷ = P·y + (I − P)·c with P = L·R, where c is ȳ for output PCA (Zhang et al. 2015, without the ReLU
term; the mean correction leaves E[ŷ] = ȳ) and b for the SVD of the weight, which knows no data.

Output PCA, weighted by G = DᵀD, minimises E (y − ŷ)ᵀG(y − ŷ): V are the top eigenvectors of D·Cov(y)·Dᵀ, L = D⁻¹·V
and R = Vᵀ·D. They are taken *within the range of D·W*. All of D·Cov(y)·Dᵀ lies there, so where O ≤ I·kh·kw this
restricts nothing; where O is larger it makes rank I·kh·kw exact however few images there were. For G = I
the error is √(1 − energy(r)), exactly. For weight SVD L = Rᵀ are the left singular vectors of W.

The error of all ranks at once, S = Cov(y) and ranks nested:

    E‖ŷ − y‖² = tr S − 2·Σ_{i≤r} (R·S·L)_ii + Σ_{i,j≤r} (LᵀL)_ij·(R·S·Rᵀ)_ij + ‖(I − P)(ȳ − c)‖².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Float64, Projection, Shape4, make_chain, own_bias, weight_matrix
from ranksmith.lowrank.spectra import descending_eigh
from ranksmith.lowrank.statistics import Moments
from ranksmith.lowrank.weighting import Weighting

__all__ = ["ProjectionAnalysis", "full_rank", "output_basis", "shapes"]


def full_rank(layer: ConvLayer) -> int:
    """min(O, I·kh·kw)"""
    return int(min(layer.out_channels, layer.weight[0].size))


def shapes(layer: ConvLayer, rank: int) -> tuple[Shape4, ...]:
    """k×k into `rank` channels, then 1×1."""
    return (rank, layer.in_channels, *layer.kernel), (layer.out_channels, rank, 1, 1)


def output_basis(matrix: Float64, covariance: Float64, weighting: Weighting) -> tuple[Float64, Float64]:
    """L [O, f] and R [f, O] of all f = min(O, d) directions of the output, most energy first.

    Args:
        matrix: the weight, [O, d].
        covariance: of the output, [O, O].
    """
    outputs, depth = matrix.shape
    root = weighting.root
    if outputs <= depth:
        directions = descending_eigh(root @ covariance @ root.T)[1]
        return solve_triangular(root, directions), directions.T @ root
    # Any orthonormal basis that the range lies in will do, so it need not be the singular vectors.
    reach = np.linalg.qr(root @ matrix)[0]
    seen = reach.T @ root
    directions = descending_eigh(seen @ covariance @ seen.T)[1]
    return solve_triangular(root, reach @ directions), directions.T @ seen


@dataclass(frozen=True, eq=False)
class ProjectionAnalysis:
    """All ranks of a projection of the output.

    Attributes:
        layer: of one group.
        left: L for full rank, [O, full]; rank r takes the first r columns.
        right: R for full rank, [full, O]; rank r takes the first r rows.
        centre: c, [O].
        moments: of the output.
        corrects_mean: whether a layer without bias gets one, so that the mean is kept.
    """

    layer: ConvLayer
    left: Float64
    right: Float64
    centre: Float64
    moments: Moments
    corrects_mean: bool

    @property
    def energy(self) -> float:
        return float(np.trace(self.moments.covariance))

    def factors(self, rank: int, rounds: int) -> tuple[ConvLayer, ...]:
        first_shape, second_shape = shapes(self.layer, rank)
        left, right = self.left[:, :rank], self.right[:rank]
        bias = None
        if self.corrects_mean or self.layer.bias is not None:
            bias = left @ (right @ (own_bias(self.layer) - self.centre)) + self.centre
        weights = (right @ weight_matrix(self.layer)).reshape(first_shape), left.reshape(second_shape)
        return make_chain(self.layer, weights, bias)

    def squared_errors(self, ranks: Sequence[int]) -> Float64:
        seen = self.right @ self.moments.covariance
        explained = np.cumsum(np.einsum("io,oi->i", seen, self.left))
        spread = np.diagonal(np.cumsum(np.cumsum((self.left.T @ self.left) * (seen @ self.right.T), 0), 1))
        offset = self.moments.mean - self.centre
        missed = offset[:, None] - np.cumsum(self.left * (self.right @ offset), axis=1)
        errors = (self.energy - 2 * explained + spread).clip(min=0) + np.sum(missed**2, axis=0)
        return np.asarray(errors[np.asarray(ranks) - 1])

    def projection(self, rank: int) -> Projection:
        matrix = self.left[:, :rank] @ self.right[:rank]
        return matrix, self.centre - matrix @ self.centre
