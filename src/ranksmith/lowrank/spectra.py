"""Cumulative energy against rank, and the error that follows from it.

For eigenvalues λ₁ ≥ λ₂ ≥ … of a covariance, energy(r) = Σ_{i≤r} λᵢ / Σ λᵢ. For output PCA (Zhang et al. 2015,
"Accelerating very deep convolutional networks for classification and detection") the relative L2 error of the layer
at rank r, ‖ŷ − y‖ / ‖y − ȳ‖ over the data of the covariance, is √(1 − energy(r)), exactly.

All arrays of energies are indexed from rank 1: entry i is what rank i + 1 retains; the last entry is 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer

__all__ = ["descending_eigh", "rank_for_energy", "relative_error", "retained_energy", "weight_energy"]

Float64 = NDArray[np.float64]


def retained_energy(covariance: NDArray[np.floating[Any]], group: int = 1) -> Float64:
    """Energy of each rank from the covariance [C, C] of a Conv's output: [C / group] in [0, 1].

    With groups the rank is per group and each group has its own basis, as grouped output PCA does.
    A covariance of zero (a constant output) loses nothing at any rank.
    """
    size = len(covariance) // group
    starts = range(0, len(covariance), size)
    blocks = [np.asarray(covariance, np.float64)[start : start + size, start : start + size] for start in starts]
    values = np.sum([np.linalg.eigvalsh(block)[::-1].clip(min=0) for block in blocks], axis=0)
    return _cumulative(values)


def weight_energy(layer: ConvLayer) -> Float64:
    """Energy of each rank of the weight as [O, I/group·kh·kw], per group: [min(O/group, I/group·kh·kw)]."""
    matrices = np.asarray(layer.weight, np.float64).reshape(layer.group, layer.out_channels // layer.group, -1)
    return _cumulative(np.sum(np.linalg.svd(matrices, compute_uv=False) ** 2, axis=0))


def rank_for_energy(energy: NDArray[np.floating[Any]], target: float, multiple: int = 1) -> int:
    """The smallest rank that retains `target`, rounded up to `multiple`; never above full rank."""
    # The last entry is 1 only up to rounding in a spectrum that was stored and read back.
    enough = np.flatnonzero(np.asarray(energy) >= min(target, float(energy[-1])))
    rank = int(enough[0]) + 1
    return min(-(-rank // multiple) * multiple, len(energy))


def relative_error(energy: NDArray[np.floating[Any]]) -> Float64:
    """√(1 − energy), elementwise."""
    return np.sqrt(np.clip(1.0 - np.asarray(energy, np.float64), 0.0, 1.0))


def descending_eigh(matrix: Float64) -> tuple[Float64, Float64]:
    """Eigenvalues, largest first and none below zero, and eigenvectors (columns) of a symmetric matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return values[::-1].clip(min=0), vectors[:, ::-1]


def _cumulative(values: Float64) -> Float64:
    total = float(values.sum())
    if not total > 0:
        return np.ones(len(values))
    energy = np.minimum(np.cumsum(values) / total, 1.0)
    energy[-1] = 1.0
    return energy
