"""Streaming first and second moments of activations; memory does not depend on the number of images.

Of vectors v (a Conv's output channels at a position, or its im2col column) are kept the number n,
s = Σ (v − c) and S = Σ (v − c)(v − c)ᵀ, so that

    mean = c + s/n,    covariance = S/n − (s/n)(s/n)ᵀ.

The shift c is the mean of the first block: activations after a ReLU have means as large as their spread,
and S/n − mean·meanᵀ would lose the digits that the small eigenvalues are made of. Merging moves the other's
sums to this shift. Everything is kept in float64.

The product over one block of positions is made in float64 for outputs of few channels, where it costs little. For
others, and for columns, it is made in the activations' own float32: a block is at most 16,384 terms, whose sum keeps
six digits, and it is the sum over blocks, float64 here, in which float32 would lose a batch against the total.
Eigenvalues below some 1e-8 of the largest are rounding then, which is an error of 1e-4 of the output.

Neighbouring positions tell nearly the same, so of a large map `enough_positions` are taken: of 56 × 56 one in 15, of
28 × 28 one in three. Error on other images from 128 images of ResNet-50 at half rank, all positions and those:

    3×3, 64 channels, 56 × 56    input-side .0937 and .0942    spatial .1944 and .1947    output PCA .2386 and .2390
    3×3, 128 channels, 28 × 28   input-side .1069 and .1074    spatial .1965 and .1968    output PCA .2223 and .2227
    1×1, 128 to 512, 28 × 28     output PCA at rank 64 of 512 .1396 and .1397

S is symmetric: the product is a symmetric rank-k update, half the work of a matrix product, and only the lower
triangle of S is kept up to date until somebody asks. Nothing here holds more than one d × d array beside S: at
4608 columns each takes 170 MB. Where a batch has few positions for that many columns they wait for the next
batches', because every product costs a walk through S.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs

from ranksmith.convolution import ConvLayer
from ranksmith.errors import ModelError
from ranksmith.lowrank.columns import stream_columns

__all__ = ["InputStatistics", "Moments", "OutputStatistics", "enough_positions"]

Array = NDArray[Any]
Float64 = NDArray[np.float64]

_LEAST_PER_IMAGE = 196
_PER_ENTRY = 20

# Outputs of at most so many channels are multiplied in float64.
_FEW_CHANNELS = 256


def enough_positions(width: int, images: int) -> int:
    """Positions of each image after which more would say little, for vectors of `width` entries.

    196, a 14 × 14 map, and more where 20 times the entries could not be had of that many images otherwise.
    """
    return max(_LEAST_PER_IMAGE, -(-_PER_ENTRY * width // max(1, images)))


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean [d] and covariance [d, d] of a random vector, float64, and how many samples they are from.

    Positions that were passed over count among the samples: their neighbours spoke for them, and how much a sample
    tells (`scarce`) was measured on all.

    Where the covariance was blended with white noise for the sake of the factors (`scarce`), errors are
    predicted over scale·covariance + white·I instead.
    """

    mean: Float64
    covariance: Float64
    count: float = math.inf
    scale: float = 1.0
    white: float = 0.0


class _Streaming:
    """The sums described above for `groups` independent vectors of `width` entries."""

    def __init__(self, groups: int, width: int, positions_per_image: int | None) -> None:
        self.count = 0
        self.taken = 0
        self.images = 0
        self.positions_per_image = positions_per_image
        self.width = width
        self._waiting: list[Array] = []
        self._shift = np.zeros((groups, width))
        self._sum = np.zeros((groups, width))
        self._gram = np.zeros((groups, width, width))

    def to_arrays(self) -> dict[str, Array]:
        """Everything that `from_arrays` needs, for a cache file; of the Gram matrix the lower triangle counts."""
        self.settle()
        return {
            "count": np.array([self.count, self.taken, self.images]),
            "shift": self._shift,
            "sum": self._sum,
            "gram": self._gram,
        }

    def merge(self, other: Self) -> None:
        """Add what `other` has seen, as if this had seen it.

        Raises:
            ValueError: the two are of different shapes.
        """
        if self._gram.shape != other._gram.shape:
            raise ValueError(f"statistics of shape {other._gram.shape} cannot join {self._gram.shape}")
        self.settle()
        other.settle()
        if not other.taken:
            return
        if not self.taken:
            self._shift = other._shift.copy()
        move = other._shift - self._shift
        half = other._sum + other.taken / 2 * move
        self._gram += other._gram
        for gram, a, b in zip(self._gram, move, half, strict=True):
            for row, left, right in zip(gram, a, b, strict=True):
                row += left * b + right * a
        self._sum += other._sum + other.taken * move
        self.count += other.count
        self.taken += other.taken
        self.images += other.images

    def _load(self, arrays: Mapping[str, Array]) -> None:
        self.count, self.taken, self.images = (int(value) for value in arrays["count"])
        for name in ("shift", "sum", "gram"):
            array = np.array(arrays[name], np.float64)
            if array.shape != getattr(self, f"_{name}").shape:
                raise ValueError(f"saved {name} has shape {array.shape}, not {getattr(self, f'_{name}').shape}")
            setattr(self, f"_{name}", array)

    def settle(self) -> None:
        """Add what waits; whoever reads the sums does so.

        Raises:
            ModelError: a value is NaN or infinite.
        """
        if self._waiting:
            block = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=2)
            self._waiting.clear()
            self._add(block)

    def _step(self, height: int, width: int) -> int:
        if not self.positions_per_image:
            return 1
        step = max(1, height * width // self.positions_per_image)
        # With a factor in common it would stay in the same columns, row after row.
        while math.gcd(step, width) > 1:
            step -= 1
        return step

    def _take(self, values: Array, layer: ConvLayer) -> None:
        """Take the columns of `values` [N, I, H, W] that `layer` sees."""
        height, width = (max(0, size) for size in layer.output_size(*values.shape[2:]))
        for block in stream_columns(values, layer, step=self._step(height, width), start=self.images):
            self._waiting.append(block)
            if sum(waiting.shape[2] for waiting in self._waiting) >= self.width / 4:
                self.settle()
        self.count += len(values) * height * width
        self.images += len(values)

    def _add(self, block: Array) -> None:
        """Add a block [groups, width, positions], which this overwrites."""
        scratch = np.zeros(self._gram.shape[1:], block.dtype)
        update = get_blas_funcs("syrk", (scratch,))
        with np.errstate(over="ignore", invalid="ignore"):
            if not self.taken:
                # What is subtracted is the shift in the block's own precision; count from that.
                self._shift = block.mean(axis=2, dtype=np.float64).astype(block.dtype).astype(np.float64)
            block -= self._shift[:, :, None].astype(block.dtype)
            total = block.sum(axis=2, dtype=np.float64)
            for gram, part in zip(self._gram, block, strict=True):
                # BLAS sees the transposes, whose upper triangle is our lower one.
                update(1.0, part.T, trans=1, c=scratch.T, overwrite_c=1)
                if not np.isfinite(np.diagonal(scratch)).all():
                    raise ModelError(
                        "activations are not finite (NaN or infinity)",
                        hint="check that the model and the preprocessing fit the images",
                    )
                for rows in _panels(len(gram)):
                    gram[rows, : rows.stop] += scratch[rows, : rows.stop]
        self._sum += total
        self.taken += block.shape[2]

    def _moments(self, group: int) -> Moments:
        self.settle()
        if not self.taken:
            raise ValueError("these statistics have seen no activations")
        mean = self._sum[group] / self.taken
        covariance = self._gram[group] / self.taken
        # Row by row: at 4608 columns the outer product alone would take 170 MB.
        for row, value in zip(covariance, mean, strict=True):
            row -= value * mean
        _mirror(covariance)
        return Moments(mean + self._shift[group], covariance, self.count)


def _panels(size: int) -> Iterator[slice]:
    """Rows in parts of at most 512."""
    return (slice(start, min(start + 512, size)) for start in range(0, size, 512))


def _mirror(matrix: Float64) -> None:
    """Copy the lower triangle to the upper one."""
    for rows in _panels(len(matrix)):
        matrix[: rows.start, rows] = matrix[rows, : rows.start].T
        corner = matrix[rows, rows]
        corner[...] = np.tril(corner) + np.tril(corner, -1).T


class OutputStatistics(_Streaming):
    """Mean and covariance of a Conv's output channels over images and positions.

    Args:
        channels: C of the values that `update` takes.
        positions_per_image: take evenly spaced positions only, at least so many of each image that has them.

    Attributes:
        width: entries of a vector, the channels.
        count: number of positions of the images seen.
        taken: number of them that the sums are of.
        images: number of images seen.
    """

    def __init__(self, channels: int, *, positions_per_image: int | None = None) -> None:
        super().__init__(1, channels, positions_per_image)
        self.channels = channels

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> OutputStatistics:
        """The statistics that `to_arrays` wrote."""
        statistics = cls(int(arrays["shift"].shape[1]))
        statistics._load(arrays)
        return statistics

    @property
    def mean(self) -> Float64:
        """[C]"""
        return self.moments().mean

    @property
    def covariance(self) -> Float64:
        """[C, C], normalised by the number of positions."""
        return self.moments().covariance

    def moments(self) -> Moments:
        """Mean and covariance together.

        Raises:
            ValueError: nothing was seen yet.
        """
        return self._moments(0)

    def update(self, y: Array) -> None:
        """Take the outputs `y` [N, C, H, W] of a batch.

        Raises:
            ModelError: a value is NaN or infinite.
            ValueError: `y` has another number of channels.
        """
        if y.ndim < 2 or y.shape[1] != self.channels:
            raise ValueError(f"output of shape {y.shape} where [N, {self.channels}, H, W] is expected")
        identity = ConvLayer(np.broadcast_to(np.float32(0), (self.channels, self.channels, 1, 1)))
        values = y.astype(np.float64) if self.channels <= _FEW_CHANNELS else _at_least_single(y)
        self._take(values if y.ndim == 4 else values.reshape(*y.shape[:2], math.prod(y.shape[2:]), 1), identity)


class InputStatistics(_Streaming):
    """Mean and covariance of the im2col columns of a Conv's input at its output positions, per group.

    Args:
        layer: the Conv; its weights are not used.
        positions_per_image: as for `OutputStatistics`.

    Attributes:
        width: entries of a group's column, I/group·kh·kw.
        count: number of positions of the images seen.
        taken: number of them that the sums are of.
        images: number of images seen.
    """

    def __init__(self, layer: ConvLayer, *, positions_per_image: int | None = None) -> None:
        super().__init__(layer.group, int(np.prod(layer.weight.shape[1:])), positions_per_image)
        self.layer = layer

    @classmethod
    def from_arrays(cls, layer: ConvLayer, arrays: Mapping[str, Array]) -> InputStatistics:
        """The statistics that `to_arrays` wrote for this layer.

        Raises:
            ValueError: they are of another shape.
        """
        statistics = cls(layer)
        statistics._load(arrays)
        return statistics

    @property
    def mean(self) -> Float64:
        """[group, d] with d = I/group·kh·kw"""
        return np.stack([self._moments(group).mean for group in range(self.layer.group)])

    @property
    def covariance(self) -> Float64:
        """[group, d, d], normalised by the number of positions."""
        return np.stack([self._moments(group).covariance for group in range(self.layer.group)])

    def moments(self, group: int = 0) -> Moments:
        """Mean and covariance of one group's columns.

        Raises:
            ValueError: nothing was seen yet.
        """
        return self._moments(group)

    def update(self, x: Array) -> None:
        """Take the inputs `x` [N, I, H, W] of a batch.

        Raises:
            ModelError: a value is NaN or infinite.
            ValueError: `x` has another number of channels.
        """
        if x.ndim != 4 or x.shape[1] != self.layer.in_channels:
            raise ValueError(f"input of shape {x.shape} where [N, {self.layer.in_channels}, H, W] is expected")
        self._take(_at_least_single(x), self.layer)


def _at_least_single(values: Array) -> Array:
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)
