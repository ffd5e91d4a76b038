"""Kinds that project the output onto r of its directions: weight SVD and output PCA.

With V [O, r] orthonormal, W [O, I·kh·kw] and output y = W·x + b about its mean ȳ:

- first Conv: weight Vᵀ·W (shape [r, I, kh, kw], the layer's stride, pads, dilation), no bias;
- second Conv: weight V (shape [O, r, 1, 1]), bias V·Vᵀ·(b − c) + c,

so that ŷ = P·y + (I − P)·c with P = V·Vᵀ, where c is ȳ for output PCA (Zhang et al. 2015, without the ReLU
term; the mean correction leaves E[ŷ] = ȳ) and b for the SVD of the weight, which knows no data:
its V are the left singular vectors of W.

Output PCA's V are the top eigenvectors of Cov(y) *within the range of W*. All of Cov(y) lies there, so where
O ≤ I·kh·kw this restricts nothing; where O is larger it makes rank I·kh·kw exact however few images
there were. The error is then √(1 − energy(r)), exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Float64, Projection, Shape4, make_chain, weight_matrix
from ranksmith.lowrank.spectra import descending_eigh
from ranksmith.lowrank.statistics import Moments

__all__ = ["ProjectionAnalysis", "full_rank", "output_basis", "shapes"]


def full_rank(layer: ConvLayer) -> int:
    """min(O, I·kh·kw)"""
    outputs, depth = weight_matrix(layer).shape
    return int(min(outputs, depth))


def shapes(layer: ConvLayer, rank: int) -> tuple[Shape4, ...]:
    """k×k into `rank` channels, then 1×1."""
    return (rank, layer.in_channels, *layer.kernel), (layer.out_channels, rank, 1, 1)


def output_basis(matrix: Float64, covariance: Float64) -> tuple[Float64, Float64]:
    """Orthonormal directions V [O, min(O, d)] of the output, most energy first, and their energies.

    Args:
        matrix: the weight, [O, d].
        covariance: of the output, [O, O].
    """
    outputs, depth = matrix.shape
    if outputs <= depth:
        values, vectors = descending_eigh(covariance)
        return vectors, values
    reach = np.linalg.svd(matrix, full_matrices=False)[0]
    values, vectors = descending_eigh(reach.T @ covariance @ reach)
    return reach @ vectors, values


@dataclass(frozen=True, eq=False)
class ProjectionAnalysis:
    """All ranks of a projection of the output.

    Attributes:
        layer: of one group.
        basis: V for full rank, [O, full]; rank r takes the first r columns.
        centre: c, [O].
        moments: of the output, from which the error is predicted.
        corrects_mean: whether the result has a bias where the layer has none.
    """

    layer: ConvLayer
    basis: Float64
    centre: Float64
    moments: Moments
    corrects_mean: bool

    @property
    def energy(self) -> float:
        return float(np.trace(self.moments.covariance))

    def factors(self, rank: int) -> tuple[ConvLayer, ...]:
        first_shape, second_shape = shapes(self.layer, rank)
        basis = self.basis[:, :rank]
        first = (basis.T @ weight_matrix(self.layer)).reshape(first_shape)
        bias = None
        if self.corrects_mean or self.layer.bias is not None:
            own = np.zeros(self.layer.out_channels) if self.layer.bias is None else self.layer.bias
            bias = basis @ (basis.T @ (own - self.centre)) + self.centre
        return make_chain(self.layer, (first, basis.reshape(second_shape)), bias)

    def squared_error(self, rank: int) -> float:
        # (I − P)·(y − c): its energy is what the basis misses of the spread, and of the mean's offset from c.
        basis = self.basis[:, :rank]
        kept = float(np.sum((self.moments.covariance @ basis) * basis))
        offset = self.moments.mean - self.centre
        missed = offset - basis @ (basis.T @ offset)
        return max(0.0, self.energy - kept) + float(missed @ missed)

    def projection(self, rank: int) -> Projection:
        basis = self.basis[:, :rank]
        matrix = basis @ basis.T
        return matrix, self.centre - matrix @ self.centre
