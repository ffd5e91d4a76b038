"""Fit the last factor of a chain again, to what it really reads and to what becomes of what it makes.

Factors are fitted to the inputs of the original model. In the compressed model the last one reads other inputs, for
the layers before it are compressed too, and its errors add to theirs. With z the im2col columns of what it reads now,
c = B·z + b + ŝ what it makes with the shortcut that is added to it, and t = y + s the same of the original model, the
error that counts before a ReLU is

    e = t − c  where t > 0,      e = −max(c, 0)  where t ≤ 0

(without a ReLU t − c everywhere): how far below zero c is makes no difference. One least-squares step takes most of
it away,

    ΔB = Cov(e, z)·(Cov(z) + λ·tr(Cov(z))/d·I)⁻¹,      Δb = mean(e) − ΔB·mean(z).

For λ = 0 it minimizes a quadratic that lies above Σe² and touches it at ΔB = 0 (the alternation of Zhang et al. 2016,
arXiv:1505.06798, once), so it cannot make Σe² worse on the images it is fitted to. On others it can. So λ, or to
change the bias only, or nothing at all, is decided by cross validation over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.columns import columns, convolve

__all__ = ["Refit", "output_error"]

Array = NDArray[Any]
Float64 = NDArray[np.float64]

_FOLDS = 2
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
_MOST_COLUMNS = 2048
"""Of a factor whose weights are fitted; wider ones have their bias corrected. Time grows with the cube."""


def output_error(target: Array, current: Array, *, relu: bool) -> Array:
    """e as above, of the values' shape: what should be added to `current`."""
    error: Array = target - current
    if relu:
        np.copyto(error, -np.maximum(current, 0), where=target <= 0)
    return error


class Refit:
    """Streaming sums for one Conv, and the change that they ask for.

    Args:
        layer: the Conv as it is; grouped or not.

    Attributes:
        images: number of images seen.
    """

    def __init__(self, layer: ConvLayer) -> None:
        self._layer = layer
        self._with_weights = int(np.prod(layer.weight.shape[1:])) <= _MOST_COLUMNS
        self._folds = [[_Sums() for _ in range(layer.group)] for _ in range(_FOLDS)]
        self.images = 0

    def update(self, z: Array, target: Array, shortcut: Array | None = None, *, relu: bool = False) -> None:
        """Take what the Conv reads for some images.

        Args:
            z: [N, I, H, W].
            target: t [N, O, oh, ow].
            shortcut: ŝ [N, O, oh, ow], that is added to what the Conv makes.
            relu: whether a ReLU follows.
        """
        z = z.astype(self._layer.weight.dtype, copy=False)
        current = convolve(z, self._layer)
        if shortcut is not None:
            current = current + shortcut
        error = output_error(target.astype(z.dtype, copy=False), current.astype(z.dtype, copy=False), relu=relu)
        for fold in range(_FOLDS):
            own = np.arange(len(z))[(fold - self.images) % _FOLDS :: _FOLDS]
            if not len(own):
                continue
            parts = error[own].transpose(1, 0, 2, 3).reshape(self._layer.group, -1, error[own, 0].size)
            # Columns take memory that a mere correction of the bias does not need.
            seen = columns(z[own], self._layer) if self._with_weights else parts[:, :0]
            for sums, column, part in zip(self._folds[fold], seen, parts, strict=True):
                sums.add(column, part)
        self.images += len(z)

    def solve(self) -> tuple[ConvLayer, float] | None:
        """The Conv with its new weights, and Σe² on images that it was not fitted to over what it was; None where
        nothing lowers it."""
        parts = [_best([fold[group] for fold in self._folds]) for group in range(self._layer.group)]
        before, after = sum(part[0] for part in parts), sum(part[1] for part in parts)
        if not after < before:
            return None
        weight, bias = self._layer.weight, self._layer.bias
        moved = np.concatenate([part[2] for part in parts])
        if self._with_weights:
            weight = (weight + moved[:, :-1].reshape(weight.shape)).astype(weight.dtype)
        bias = (moved[:, -1] if bias is None else bias + moved[:, -1]).astype(weight.dtype)
        return replace(self._layer, weight=weight, bias=bias), after / before


@dataclass(eq=False)
class _Sums:
    """n, Σz̃z̃ᵀ, Σe·z̃ᵀ and Σe² over positions, with z̃ = (z, 1)."""

    zz: Float64 | None = None
    ez: Float64 | None = None
    ee: float = 0.0

    def add(self, z: Array, e: Array) -> None:
        """z [d, P], e [O, P]."""
        extended = np.concatenate([z, np.ones((1, e.shape[1]), e.dtype)])
        zz, ez = (extended @ extended.T).astype(np.float64), (e @ extended.T).astype(np.float64)
        self.zz = zz if self.zz is None else self.zz + zz
        self.ez = ez if self.ez is None else self.ez + ez
        self.ee += float(np.square(e, dtype=np.float64).sum())

    def after(self, change: Float64) -> float:
        """Σe² once `change` [O, d + 1] is added to (B, b), by the quadratic."""
        assert self.zz is not None
        assert self.ez is not None
        return self.ee + float((change * (change @ self.zz - 2 * self.ez)).sum())


def _best(folds: Sequence[_Sums]) -> tuple[float, float, Float64]:
    """(Σe² as it is, Σe² on images left out by the best way to change, that change fitted to all images)."""
    seen = [sums for sums in folds if sums.zz is not None]
    total = _joined(seen)
    assert total.ez is not None
    none = np.zeros_like(total.ez)
    if len(seen) < _FOLDS:
        return total.ee, total.ee, none
    ridges: list[float | None] = [None, *(_RIDGES if none.shape[1] > 1 else ())]
    scores = np.zeros(len(ridges))
    for left_out in seen:
        rest = _joined([sums for sums in seen if sums is not left_out])
        scores += [left_out.after(_change(rest, ridge)) for ridge in ridges]
    best = int(np.argmin(scores))
    if not scores[best] < total.ee:
        return total.ee, total.ee, none
    return total.ee, float(scores[best]), _change(total, ridges[best])


def _joined(parts: Sequence[_Sums]) -> _Sums:
    zz, ez = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("zz", "ez"))
    return _Sums(zz, ez, sum(part.ee for part in parts))


def _change(sums: _Sums, ridge: float | None) -> Float64:
    """(ΔB, Δb) [O, d + 1] for one λ; None: the bias alone."""
    assert sums.zz is not None
    assert sums.ez is not None
    count = sums.zz[-1, -1]
    mean, error = sums.zz[-1, :-1] / count, sums.ez[:, -1] / count
    change = np.zeros_like(sums.ez)
    if ridge is not None:
        covariance = sums.zz[:-1, :-1] / count - np.outer(mean, mean)
        spread = float(np.trace(covariance)) / len(covariance)
        if spread > 0:
            covariance[np.diag_indices(len(covariance))] += ridge * spread
            cross = sums.ez[:, :-1] / count - np.outer(error, mean)
            change[:, :-1] = cho_solve(cho_factor(covariance, lower=True), cross.T).T
    change[:, -1] = error - change[:, :-1] @ mean
    return change
