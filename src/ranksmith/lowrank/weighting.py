"""The metric of a layer's output in which a data-aware kind minimises its error.

Factors that minimise E (y − ŷ)ᵀG(y − ŷ) spend their rank on what the model's output depends on, where G [O, O]
is, say, the second moment of the loss's gradient with respect to y. G = I is the layer's plain error.

Only G's shape matters, not its scale, and a direction to which G gives nothing would be given up entirely, on
the word of a few calibration images. So G is made symmetric, brought to mean eigenvalue 1, and no eigenvalue is let
below 1/100: D = G^½ and D⁻¹, through which the factors are made, are then well conditioned.
"""

from __future__ import annotations

from dataclasses import dataclass
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
        root: D = G^½, symmetric.
        inverse: D⁻¹.
    """

    matrix: Float64
    root: Float64
    inverse: Float64


def weightings(matrix: NDArray[np.floating[Any]] | None, outputs: int, group: int = 1) -> list[Weighting]:
    """The guarded weighting of each group of a Conv of `outputs` channels; None weights all channels alike.

    Of a matrix [O, O] each group takes its diagonal block.

    Raises:
        ValueError: the matrix is not [O, O], or not finite.
    """
    size = outputs // group
    if matrix is None:
        return [Weighting(np.eye(size), np.eye(size), np.eye(size))] * group
    if matrix.shape != (outputs, outputs):
        raise ValueError(f"a weighting of shape {matrix.shape} for {outputs} output channels")
    if not np.isfinite(matrix).all():
        raise ValueError("the weighting is not finite")
    whole = np.asarray(matrix, np.float64)
    return [_guarded(whole[start : start + size, start : start + size]) for start in range(0, outputs, size)]


def _guarded(matrix: Float64) -> Weighting:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values = values.clip(min=0)
    scale = values.mean()
    # No gradient at all says nothing about any channel.
    values = np.maximum(values / scale, _FLOOR) if scale > 0 else np.ones_like(values)
    root = np.sqrt(values)
    return Weighting(
        matrix=(vectors * values) @ vectors.T,
        root=(vectors * root) @ vectors.T,
        inverse=(vectors / root) @ vectors.T,
    )
