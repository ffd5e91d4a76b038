"""Alternating least squares for a pair of factors on a shared index (notation of `shared`).

`shared` picks A by C_s alone, as if kernel positions did not correlate, and fits only B to all of C. A round
takes that back: the best A for this B, then the best B for this A. Both minimise

    f(A, B) = tr G·(W − B·P)·C*·(W − B·P)ᵀ,    C* = C + τ·C_s ⊗ I,    P = A on every k,

with the shrinkage τ by which `shared` fits B: a B found there is the best for its A by this very f, save for λ.

- A: Σ_kl B_kᵀ·G·B_l·A·C*_lk = Σ_k B_kᵀ·G·(W·C*)_k has r·|s| unknowns, so it is solved by conjugate gradient from the A
  there is, preconditioned by what the equations are without correlation between kernel positions,
  (Σ_k B_kᵀ·G·B_k)⁻¹ · X · C_s⁻¹. Single precision is enough for a step whose result is judged in double.
- B: as in `shared`, with λ pulling towards the B there is.

A round that does not lower f is dropped. Nothing is to be gained with |k| = 1, where A and B are the reduced-rank
regression, at full rank, where they are exact, and for τ → ∞, where they are the best for C_s ⊗ I.

Measured on ResNet-50 at half rank, error on other images: 128-channel 3×3, 3 to 5 % less, 256-channel .5 to 1.5 %
(72 images, τ = 1.6); 512-channel from 72 images (τ = 13) nothing, in three seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ranksmith.lowrank.kinds.base import Float64
from ranksmith.lowrank.kinds.nested import factorise
from ranksmith.lowrank.kinds.shared import SharedSplit, mean_block, projected_covariance

__all__ = ["refine", "worthwhile"]

Array = NDArray[Any]

# Two come within 0.2 % of where it converges to, four no further.
_ITERATIONS = 3
# From this τ on, which is fewer positions than columns, a round is not worth its time.
_SHRUNK = 10.0
# Of the mean eigenvalue: λ, and what the preconditioner's two matrices are raised by.
_RIDGE = 1e-4


@dataclass(frozen=True, eq=False)
class _Pair:
    """A [r, s], Bᵀ [r·k, O] and f(A, B) less its constant, tr G·W·C*·Wᵀ."""

    first: Float64
    second: Float64
    cost: float


def worthwhile(split: SharedSplit, rank: int) -> bool:
    """Whether a round may gain anything at `rank`."""
    varies = bool(np.trace(split.output) > 0)
    return varies and split.rest > 1 and rank < len(split.basis) and split.shrinkage < _SHRUNK


def refine(split: SharedSplit, rank: int, weighting: Float64, rounds: int) -> tuple[Float64, Float64]:
    """A [r, s] and Bᵀ [r·k, O] at `rank` after at most `rounds` rounds.

    Args:
        weighting: G, [O, O].
    """
    problem = _problem(split, weighting)
    best = problem.judge(split.basis[:rank], split.system(rank).solve(rank * split.rest))
    for _ in range(rounds):
        try:
            found = problem.fit_second(problem.fit_first(best), best.second)
        except np.linalg.LinAlgError:
            # One direction dwarfs all others so much that single precision cannot tell them apart.
            break
        if not found.cost < best.cost:
            break
        best = found
    return best.first, best.second


@dataclass(frozen=True, eq=False)
class _Problem:
    """What f is made of, its columns in the order (k, s), which makes C*'s blocks contiguous.

    Attributes:
        columns: where (s, k) stands in that order, [s, k].
        covariance: C*, [k·s, k·s], float32: half the memory, and its entries are no more exact than that.
        shared: C_s, [s, s].
        spread: C*·Wᵀ, [k·s, O].
        weighting: G, [O, O].
    """

    columns: NDArray[np.intp]
    covariance: NDArray[np.float32]
    shared: Float64
    spread: Float64
    weighting: Float64

    def judge(self, first: Float64, second: Float64) -> _Pair:
        """This A and B, and what they cost."""
        matrix, cross = self._equations(first)
        return _Pair(first, second, float(np.vdot(second, (matrix @ second - 2 * cross) @ self.weighting)))

    def fit_second(self, first: Float64, anchor: Float64) -> _Pair:
        """The best B for this A, kept close to `anchor` by λ."""
        matrix, cross = self._equations(first)
        damping = _RIDGE * float(np.trace(matrix)) / len(matrix)
        matrix[np.diag_indices(len(matrix))] += damping
        right = cross + damping * anchor
        second = factorise(matrix, right).solve(len(matrix))
        # P·C*·Pᵀ·Bᵀ by the equations that B solves.
        through = right - damping * second
        return _Pair(first, second, float(np.vdot(second, (through - 2 * cross) @ self.weighting)))

    def _equations(self, first: Float64) -> tuple[Float64, Float64]:
        """P·C*·Pᵀ [r·k, r·k] and P·C*·Wᵀ [r·k, O]."""
        matrix = projected_covariance(self.covariance, self.columns, first)
        cross = first @ self.spread[self.columns].reshape(len(self.columns), -1)
        return matrix, cross.reshape(len(matrix), -1)

    def fit_first(self, pair: _Pair) -> Float64:
        """A better A for this B."""
        (size, rest), outputs = self.columns.shape, len(self.weighting)
        second = pair.second.reshape(len(pair.first), rest, outputs).transpose(1, 0, 2)  # B_kᵀ, [k, r, O]
        weighted = second @ self.weighting
        inner = _raised(np.sum(weighted @ second.transpose(0, 2, 1), axis=0))
        shared = _raised(self.shared)
        left, right = weighted.astype(np.float32), second.transpose(0, 2, 1).astype(np.float32)

        def gather(response: Array) -> Array:
            """Σ_k B_kᵀ·G·Y_k of Y [O, k·s]."""
            return np.asarray(np.sum(left @ response.reshape(outputs, rest, size).transpose(1, 0, 2), axis=0))

        def apply(first: Array) -> Array:
            whole = (right @ first).transpose(1, 0, 2).reshape(outputs, rest * size)
            return gather(whole @ self.covariance)

        def precondition(residual: Array) -> Array:
            solved = cho_solve(shared, cho_solve(inner, residual, check_finite=False).T, check_finite=False)
            return np.asarray(solved.T, np.float32)

        first = pair.first.astype(np.float32)
        residual = gather(self.spread.T.astype(np.float32)) - apply(first)
        step = direction = precondition(residual)
        slope = float(np.vdot(residual, step))
        for _ in range(_ITERATIONS):
            moved = apply(direction)
            curvature = float(np.vdot(direction, moved))
            if not (slope > 0 and curvature > 0):
                break
            first += slope / curvature * direction
            residual -= slope / curvature * moved
            step = precondition(residual)
            before, slope = slope, float(np.vdot(residual, step))
            direction = step + slope / before * direction
        return first.astype(np.float64)


def _problem(split: SharedSplit, weighting: Float64) -> _Problem:
    order = split.columns.T.ravel()
    size, rest = split.columns.shape
    columns = np.arange(len(order)).reshape(rest, size).T
    whole = split.source.moments.covariance
    shared = mean_block(whole, split.columns)
    covariance = whole.astype(np.float32)[np.ix_(order, order)]
    spread = split.source.spread[order]
    for own in columns.T:
        covariance[np.ix_(own, own)] += (split.shrinkage * shared).astype(np.float32)
        spread[own] += split.shrinkage * shared @ split.weight.T[order[own]]
    return _Problem(columns, covariance, shared, spread, weighting)


def _raised(matrix: Float64) -> tuple[Float64, bool]:
    raised = matrix + _RIDGE * float(np.trace(matrix)) / len(matrix) * np.eye(len(matrix))
    lower, is_lower = cho_factor(raised, lower=True, check_finite=False)
    return np.asarray(lower), bool(is_lower)
