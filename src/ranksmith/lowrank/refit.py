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
arXiv:1505.06798, once), so it cannot make Σe² worse on what it is fitted to. On other images it can. So λ, or to
change the bias only, or nothing at all, is decided by cross validation over images.

An early layer makes thousands of values of each channel for an image, and its neighbours say much the same, so what
is taken of an image is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ranksmith.convolution import ConvLayer

__all__ = ["Refit", "output_error"]

Array = NDArray[Any]
Float64 = NDArray[np.float64]

_FOLDS = 2
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
_MOST_COLUMNS = 2048
"""Of a factor whose weights are fitted; wider ones have their bias corrected. Time grows with the cube."""
_MOST_POSITIONS = 196
"""Of an image that are looked at."""


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
        layer = self._layer
        # Sums of halves overflow.
        dtype = np.promote_types(layer.weight.dtype, np.float32)
        seen = _positions(layer.output_size(*z.shape[2:]), np.arange(self.images, self.images + len(z)))
        column = _columns(z, layer, seen).astype(dtype, copy=False)
        weight = layer.weight.reshape(layer.group, layer.out_channels // layer.group, -1).astype(dtype, copy=False)
        current = np.matmul(weight, column)
        if layer.bias is not None:
            current += layer.bias.reshape(layer.group, -1, 1)
        if shortcut is not None:
            current += _taken(shortcut, seen).reshape(current.shape)
        error = output_error(_taken(target, seen).reshape(current.shape).astype(dtype, copy=False), current, relu=relu)
        if not self._with_weights:
            column = column[:, :0]
        for fold, sums in enumerate(self._folds):
            # Folds take images in turn.
            own = slice((fold - self.images) % _FOLDS, None, _FOLDS)
            if taken := seen[own].size:
                z_own, e_own = (
                    each.reshape(*each.shape[:2], *seen.shape)[:, :, own].reshape(*each.shape[:2], taken)
                    for each in (column, error)
                )
                for part, *given in zip(sums, z_own, e_own, strict=True):
                    part.add(*given)
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


def _positions(size: tuple[int, int], images: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """[N, P] output positions to look at of images by their numbers, row by row.

    The same whatever the images hold. The step has no divisor in common with the width, else one image would be seen
    in a few of its columns only, and where it starts goes round with the images of a fold.
    """
    most = size[0] * size[1]
    step = -(-most // _MOST_POSITIONS) or 1
    while step > 1 and gcd(step, size[1]) > 1:
        step += 1
    return (images // _FOLDS % step)[:, None] + step * np.arange(most // step)


def _taken(values: Array, seen: NDArray[np.intp]) -> Array:
    """[C, N, P] of [N, C, H, W] at positions [N, P]."""
    flat = values.reshape(*values.shape[:2], -1)
    return np.stack([np.take(one, own, axis=1) for one, own in zip(flat, seen, strict=True)], axis=1)


def _columns(z: Array, layer: ConvLayer, seen: NDArray[np.intp]) -> Array:
    """`lowrank.columns.columns` at some output positions [N, P]: [group, d, N·P]."""
    top, left, bottom, right = layer.pads
    padded = np.pad(z, ((0, 0), (0, 0), (top, bottom), (left, right))) if any(layer.pads) else z
    width = padded.shape[3]
    y, x = np.divmod(seen, layer.output_size(*z.shape[2:])[1])
    (sh, sw), (dh, dw), (kh, kw) = layer.strides, layer.dilations, layer.kernel
    corner = y * sh * width + x * sw
    block = [_taken(padded, corner + i * dh * width + j * dw) for i in range(kh) for j in range(kw)]
    return np.stack(block, axis=1).reshape(layer.group, -1, seen.size)


@dataclass(eq=False)
class _Sums:
    """n, Σz̃z̃ᵀ, Σe·z̃ᵀ and Σe² over positions, with z̃ = (z, 1)."""

    zz: Float64 | None = None
    ez: Float64 | None = None
    ee: float = 0.0

    def add(self, z: Array, e: Array) -> None:
        """z [d, P], e [O, P]."""
        extended = np.concatenate([z, np.ones((1, e.shape[1]), e.dtype)])
        if self.zz is None or self.ez is None:
            self.zz, self.ez = np.zeros((len(extended), len(extended))), np.zeros((len(e), len(extended)))
        self.zz += extended @ extended.T
        self.ez += e @ extended.T
        self.ee += float(np.vdot(e, e))


def _best(folds: Sequence[_Sums]) -> tuple[float, float, Float64]:
    """(Σe² as it is, Σe² on images left out by the best way to change, that change fitted to all images)."""
    seen = [sums for sums in folds if sums.zz is not None]
    total = _joined(seen)
    assert total.ez is not None
    none = np.zeros_like(total.ez)
    if len(seen) < _FOLDS:
        return total.ee, total.ee, none
    scores = np.zeros(1 + len(_RIDGES))
    for left_out in seen:
        scores += _scores(_joined([sums for sums in seen if sums is not left_out]), left_out)
    best = int(np.argmin(scores))
    if not scores[best] < total.ee:
        return total.ee, total.ee, none
    return total.ee, float(scores[best]), _change(total, (None, *_RIDGES)[best])


def _scores(fitted: _Sums, left_out: _Sums) -> Float64:
    """Σe² on images left out by each way to change: the bias alone, and each λ."""
    (error, mean), covariance, cross = _moments(fitted)
    assert left_out.zz is not None
    assert left_out.ez is not None
    count, z, e = left_out.zz[-1, -1], left_out.zz[-1, :-1], left_out.ez[:, -1]
    scores = np.full(1 + len(_RIDGES), left_out.ee - float(error @ (2 * e - count * error)))
    zz = _single(left_out.zz[:-1, :-1] - np.outer(mean, z) - np.outer(z - count * mean, mean))
    ez = _single(left_out.ez[:, :-1] - np.outer(error, z) - np.outer(e - count * error, mean))
    right = np.asfortranarray(_single(cross.T))
    for index, ridge in enumerate(_RIDGES, start=1):
        if (factor := _factor(covariance, ridge)) is not None:
            change = cho_solve((_single(factor), True), right, check_finite=False).T
            scores[index] += float(np.vdot(change, change @ zz - 2 * ez))
    return scores


def _single(array: Float64) -> NDArray[np.float32]:
    """Enough to compare ways to change, in half the time; the change itself is found in double precision."""
    return array.astype(np.float32)


def _joined(parts: Sequence[_Sums]) -> _Sums:
    zz, ez = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("zz", "ez"))
    return _Sums(zz, ez, sum(part.ee for part in parts))


def _change(sums: _Sums, ridge: float | None) -> Float64:
    """(ΔB, Δb) [O, d + 1] for one λ; None: the bias alone."""
    (error, mean), covariance, cross = _moments(sums)
    change = np.zeros((len(error), len(mean) + 1))
    if ridge is not None and (factor := _factor(covariance, ridge)) is not None:
        change[:, :-1] = cho_solve((factor, True), cross.T).T
    change[:, -1] = error - change[:, :-1] @ mean
    return change


def _moments(sums: _Sums) -> tuple[tuple[Float64, Float64], Float64, Float64]:
    """((mean(e), mean(z)), Cov(z), Cov(e, z))."""
    assert sums.zz is not None
    assert sums.ez is not None
    count = sums.zz[-1, -1]
    error, mean = sums.ez[:, -1] / count, sums.zz[-1, :-1] / count
    covariance = sums.zz[:-1, :-1] / count - np.outer(mean, mean)
    return (error, mean), covariance, sums.ez[:, :-1] / count - np.outer(error, mean)


def _factor(covariance: Float64, ridge: float) -> Float64 | None:
    """Lower Cholesky factor of Cov(z) + λ·tr(Cov(z))/d·I; None where the columns do not vary, or there are none."""
    spread = float(np.trace(covariance)) / max(1, len(covariance))
    if not spread > 0:
        return None
    factor: Float64 = cho_factor(covariance + ridge * spread * np.eye(len(covariance)), lower=True)[0]
    return factor
