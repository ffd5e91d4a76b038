"""The metric of a layer's output in which a data-aware kind minimises its error.

Factors that minimise E (y − ŷ)ᵀG(y − ŷ) spend their rank on what the model's output depends on, where G [O, O]
is, say, the second moment of the loss's gradient with respect to y. G = I is the layer's plain error.

Only G's shape matters, not its scale, and a direction to which G gives nothing would be given up entirely, on
the word of a few calibration images. So G is made symmetric, brought to mean eigenvalue 1, and no eigenvalue is let
below 1/100: D with DᵀD = G, through which the factors are made, is then well conditioned. Any such D makes the same
factors, as any two differ by a rotation from the left; so it is the Cholesky factor, made in a tenth of the time that
an eigendecomposition takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Weighting", "weightings"]

Float64 = NDArray[np.float64]

_FLOOR = 1e-2


@dataclass(frozen=True, eq=False)
class Weighting:
    """G for one group's outputs.

    Attributes:
        matrix: G, [O, O].
    """

    matrix: Float64

    @cached_property
    def root(self) -> Float64:
        """D, upper triangular, with DᵀD = G."""
        return np.asarray(np.linalg.cholesky(self.matrix).T, np.float64)


def weightings(matrix: NDArray[np.floating[Any]] | None, outputs: int, group: int = 1) -> list[Weighting]:
    """The guarded weighting of each group of a Conv of `outputs` channels; None weights all channels alike.

    Of a matrix [O, O] each group takes its diagonal block.

    Raises:
        ValueError: the matrix is not [O, O], or not finite.
    """
    size = outputs // group
    if matrix is None:
        return [Weighting(np.eye(size))] * group
    if matrix.shape != (outputs, outputs):
        raise ValueError(f"a weighting of shape {matrix.shape} for {outputs} output channels")
    if not np.isfinite(matrix).all():
        raise ValueError("the weighting is not finite")
    whole = np.asarray(matrix, np.float64)
    return [_guarded(whole[start : start + size, start : start + size]) for start in range(0, outputs, size)]


def _guarded(matrix: Float64) -> Weighting:
    symmetric = (matrix + matrix.T) / 2
    mean = float(np.trace(symmetric)) / len(symmetric)
    if mean > 0 and _is_definite(symmetric / mean - _FLOOR * np.eye(len(symmetric))):
        return Weighting(symmetric / mean)
    values, vectors = np.linalg.eigh(symmetric)
    values = values.clip(min=0)
    scale = values.mean()
    # No gradient at all says nothing about any channel.
    values = np.maximum(values / scale, _FLOOR) if scale > 0 else np.ones_like(values)
    return Weighting((vectors * values) @ vectors.T)


def _is_definite(matrix: Float64) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True
