"""The mathematics of input-side and spatial factors: one factor acts on a shared index of the columns.

The columns' index d = I·kh·kw is split into s, shared, and k, the rest (input-side: s = channel, k = kernel
element; vertical spatial: s = (channel, kernel row), k = kernel column). With W [O, s, k], C [s, k, s, k] and m the
columns' covariance and mean, and G [O, O] the weighting of the output, the chain is Ŵ_k = B_k·A with A [r, s] and
B [O, r, k]:

- C_s = mean over k of C[:,k,:,k];  M = Σ_k W_kᵀ·G·W_k = H·Hᵀ;  U_r the top r eigenvectors of Hᵀ·C_s·H;  A = U_rᵀ·Hᵀ;
- B = B₀ + (W − B₀·P)·C·Pᵀ·(P·C·Pᵀ + R)⁻¹ with P = A on every k, R = λI + τΛ, and B₀ = W·H⁻ᵀ·U_r, which needs no
  correlation between different k. B does not depend on G: for a given A it is best in every metric;
- bias on the last factor only, b̂ = W·m + b − Ŵ·m.

So the ridge pulls B towards B₀ and not towards zero: where the data say nothing (few images, dead channels,
constant inputs) B₀ stands, and at full rank, where B₀·P = W, the layer is reproduced however poor the
statistics are. For R → 0 it is the ordinary least-squares solution.

Λ = diag(P·C·Pᵀ), averaged over k, is what P·C·Pᵀ would be if all that C has beyond C_s were noise; so τ shrinks C
towards C_s ⊗ I, of which B₀ is the exact solution. C has d² entries, and n positions of which neighbours
tell nearly the same: τ = 10·d/n. Measured on ResNet-50, error on other images at 55 % of the multiply-adds:
a 512-channel 3×3 from 48 images, input-side .64 without shrinking and .25 with, spatial .24 and .18; a
256-channel one from 112 images, .173 and .171; over 16 to 112 images this τ is within 1 % of the best.
λ = 1e-4 · the mean of Λ over all directions, so that R does not depend on the rank.

Any H makes the same A and B₀, as any two differ by a rotation from the right. The Cholesky factor of M is the cheapest.

Two choices make that hold in floating point. Where M is not well conditioned (dead channels), H is M^½ within the
range of M, at most O·|k| of |s| directions, so that no direction that W uses can lose its place to one that it does
not; and a trace of white noise (1e-6 of the mean variance) in C_s orders the directions that the data never reached
by their weight.

All ranks share one change of basis T = Uᵀ·Hᵀ (U for full rank), in which A is the first r rows of the identity.
So with P = T on every k, N = P·C·Wᵀ + R·B₀ᵀ and S = P·C·Pᵀ + R, rank r is the leading r·|k| unknowns of

    S·Bᵀ = N,    tr Cov(ŷ) = tr B·(N − R·Bᵀ),    tr Cov(ŷ, y) = tr B·P·C·Wᵀ,

one factorisation serves all ranks (`nested`), and a rank's error is read off without building the chain. It is made to
the rank at which the factors have as many weights as the layer, beyond which nobody goes, whatever rank is asked for
first: a larger system has other rounding errors, and factors must not depend on what else was asked for.

C is the covariance that `scarce` has blended with white noise; errors are told for the data's own, which differs from
it by a scale and a multiple of I.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve_triangular
from scipy.linalg.lapack import dpocon, dpotrf

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Float64, Source, weight_matrix
from ranksmith.lowrank.kinds.index import IndexSplit
from ranksmith.lowrank.kinds.nested import NestedSystem, factorise

__all__ = ["SharedSplit", "split_columns"]

_RIDGE = 1e-4
_SHRINK = 10.0
_WHITE = 1e-6
# Reciprocal condition number of M from which on its Cholesky factor is as good as M^½.
_WELL = 1e-9
# Directions in which the weight's energy is below this fraction of its largest are rounding.
_NEGLIGIBLE = 1e-14


@dataclass(frozen=True, eq=False)
class SharedSplit:
    """A layer in the basis T, in which rank r is the first r of f directions (f the full rank).

    A second factor is [r·k, O] here: Bᵀ, its rows in the order (direction, k).

    Attributes:
        source: the moments of the columns.
        weight: W, [O, d].
        columns: where (s, k) stands among a column's entries, [s, k].
        basis: T, [f, s].
        start: B₀ᵀ, [f·k, O].
        cross: P·C·Wᵀ, [f·k, O].
        variances: the diagonal of Λ, [f].
        shrinkage: τ.
        damping: λ.
        mean: m, [s, k].
        output: Cov(y) = W·C·Wᵀ, [O, O].
        response: W·m, [O].
        scale, white: errors are over scale·C + white·I.
        usual: up to this rank one system serves all.
    """

    source: Source
    weight: Float64
    columns: NDArray[np.intp]
    basis: Float64
    start: Float64
    cross: Float64
    variances: Float64
    shrinkage: float
    damping: float
    mean: Float64
    output: Float64
    response: Float64
    scale: float
    white: float
    usual: int

    @property
    def energy(self) -> float:
        """E‖y − ȳ‖², what errors are relative to."""
        return float(self.scale * np.trace(self.output) + self.white * np.vdot(self.weight, self.weight))

    @property
    def rest(self) -> int:
        """|k|, the unknowns of a direction."""
        return int(self.columns.shape[1])

    @cached_property
    def ridge(self) -> Float64:
        """The diagonal of R, [f·k]."""
        return np.repeat(self.damping + self.shrinkage * self.variances, self.rest)

    def system(self, rank: int) -> NestedSystem:
        """The equations of all ranks up to `rank` at least; rank r is the first r·|k| unknowns."""
        return self._usual if rank <= self.usual else self._factorised(rank)

    @cached_property
    def _usual(self) -> NestedSystem:
        return self._factorised(self.usual)

    def _factorised(self, rank: int) -> NestedSystem:
        matrix = projected_covariance(self.source.moments.covariance, self.columns, self.basis[:rank])
        size = len(matrix)
        matrix[np.diag_indices(size)] += self.ridge[:size]
        return factorise(matrix, self.right(size))

    def right(self, size: int) -> Float64:
        """The first `size` rows of N."""
        return np.asarray(self.cross[:size] + self.ridge[:size, None] * self.start[:size])

    def remainder(self, second: Float64) -> Float64:
        """P·C·Pᵀ·Bᵀ of a second factor that solves the equations, [r·k, O], without C."""
        size = len(second)
        return np.asarray(self.right(size) - self.ridge[:size, None] * second)

    def offset(self, first: Float64, second: Float64) -> Float64:
        """W·m − Ŵ·m [O] of any pair: the bias that keeps the output's mean, before the layer's own."""
        return np.asarray(self.response - (first @ self.mean).ravel() @ second)

    def squared_error(self, second: Float64) -> float:
        """E‖ŷ − y‖² of a second factor that solves the equations."""
        shared = np.vdot(second, self.cross[: len(second)])
        return self.told(second, float(np.trace(self.output) - 2 * shared + np.vdot(second, self.remainder(second))))

    def told(self, second: Float64, squared: float) -> float:
        """E‖ŷ − y‖² over scale·C + white·I of any second factor, from what it is over C."""
        if not self.white:
            return max(0.0, self.scale * squared)
        first = self.basis[: len(second) // self.rest]
        whole = first.T @ second.reshape(len(first), -1) - self.weight.T[self.columns].reshape(first.shape[1], -1)
        return max(0.0, float(self.scale * squared + self.white * np.vdot(whole, whole)))


def split_columns(layer: ConvLayer, source: Source, index: IndexSplit, weighting: Float64) -> SharedSplit:
    """Analyse a layer of one group.

    Args:
        layer: of one group.
        source: the moments of the columns, in (channel, kernel row, kernel column) order.
        index: how the columns split.
        weighting: G, [O, O].
    """
    weight, columns, moments = weight_matrix(layer), index.columns(layer), source.moments
    outputs, (size, rest) = len(weight), columns.shape
    by_shared = weight.T[columns].reshape(size, rest * outputs)
    weighted = (weighting @ weight).T[columns].reshape(size, rest * outputs)
    full = min(size, outputs * rest)
    root, start = _rooted(by_shared @ weighted.T, by_shared, full)

    shared_covariance = mean_block(moments.covariance, columns)
    white = float(np.trace(shared_covariance)) / size
    # Constant inputs have no spread at all: then the weight alone decides.
    noise = _WHITE * white if white > 0 else 1.0
    rotation = _descending(root.T @ (shared_covariance + noise * np.eye(size)) @ root)[1]

    basis = rotation.T @ root.T
    variances = np.einsum("fs,fs->f", basis @ shared_covariance, basis).clip(min=0)
    spread = source.spread
    return SharedSplit(
        source=source,
        weight=weight,
        columns=columns,
        basis=basis,
        start=(rotation.T @ start).reshape(full * rest, outputs),
        cross=(basis @ spread[columns].reshape(size, rest * outputs)).reshape(full * rest, outputs),
        variances=variances,
        shrinkage=_SHRINK * size * rest / moments.count,
        # Any λ gives B₀ where nothing varies.
        damping=float(_RIDGE * variances.mean()) or 1.0,
        mean=moments.mean[columns],
        output=weight @ spread,
        response=weight @ moments.mean,
        scale=moments.scale,
        white=moments.white,
        usual=max(1, min(full, weight.size // (size + rest * outputs))),
    )


def _rooted(matrix: Float64, by_shared: Float64, full: int) -> tuple[Float64, Float64]:
    """H [s, f] with H·Hᵀ = M, and H⁻¹ of the weight [s, k·O]."""
    lower, failed = dpotrf(matrix, lower=1)
    if not failed and dpocon(lower, np.linalg.norm(matrix, 1), uplo="L")[0] > _WELL:
        return lower, solve_triangular(lower, by_shared, lower=True)
    strength, directions = _descending(matrix)
    root, directions = np.sqrt(strength[:full]), directions[:, :full]
    inverse = np.divide(1.0, root, out=np.zeros(full), where=strength[:full] > _NEGLIGIBLE * strength[0])
    return directions * root, (directions * inverse).T @ by_shared


def mean_block(covariance: Float64, columns: NDArray[np.intp]) -> Float64:
    """C_s [s, s], the mean over k of C[:,k,:,k]."""
    total = np.zeros((len(columns), len(columns)))
    for own in columns.T:
        total += covariance[np.ix_(own, own)]
    return np.asarray(total / columns.shape[1])


def projected_covariance(covariance: NDArray[np.floating[Any]], columns: NDArray[np.intp], first: Float64) -> Float64:
    """P·C·Pᵀ, [r·k, r·k] for a first factor [r, s]: the covariance of what it makes of the columns."""
    rank, rest = len(first), columns.shape[1]
    projected = np.empty((rank, rest, rank, rest))
    for k in range(rest):
        for other in range(k + 1):
            block = first @ covariance[np.ix_(columns[:, k], columns[:, other])] @ first.T
            projected[:, k, :, other] = block
            projected[:, other, :, k] = block.T
    return projected.reshape(rank * rest, rank * rest)


def _descending(matrix: Float64) -> tuple[Float64, Float64]:
    """`descending_eigh` for matrices of a thousand rows, for which this driver takes half the time."""
    values, vectors = eigh((matrix + matrix.T) / 2, driver="evr", check_finite=False)
    return values[::-1].clip(min=0), vectors[:, ::-1]
