"""im2col: what a Conv sees at each output position, and a reference convolution built on it.

The columns of x [N, I, H, W] for a layer with kernel kh × kw and `group` groups are, at each output
position p = (n, y, x), the I/group·kh·kw inputs that a group's weights multiply, in the order of
`weight.reshape(O, -1)`: (channel, kernel row, kernel column). Zero padding enters as zeros. With
X [group, d, P] the layer is y = weight[g] @ X[g] + bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer

__all__ = ["columns", "convolve", "convolve_chain", "stream_columns"]

Array = NDArray[Any]

# One block of columns: small enough to stay bounded on wide layers, large enough for an efficient product.
_BLOCK_BYTES = 64 << 20
_BLOCK_POSITIONS = 16_384


def columns(x: Array, layer: ConvLayer) -> Array:
    """All columns of `x` [N, I, H, W] at once: [group, I/group·kh·kw, N·oh·ow], in x's type."""
    height, _ = layer.output_size(*x.shape[2:])
    return _columns(_pad(x, layer), layer, layer.output_size(*x.shape[2:]), slice(0, height))


def stream_columns(x: Array, layer: ConvLayer, *, step: int = 1, start: int = 0) -> Iterator[Array]:
    """Blocks of the columns of `x`, of at most about 64 MB each.

    Args:
        step: take every `step`-th output position of an image only.
        start: number of images that came before; it rotates the first position taken, so that a step
            that divides the width does not always meet the same image columns.
    """
    oh, ow = size = layer.output_size(*x.shape[2:])
    if not len(x) or oh < 1 or ow < 1:
        return
    depth = layer.in_channels * layer.kernel[0] * layer.kernel[1]
    positions = max(1, min(_BLOCK_BYTES // (depth * x.dtype.itemsize), _BLOCK_POSITIONS))
    images = max(1, positions * step // (oh * ow))
    rows = min(oh, max(1, positions // ow))
    for first in range(0, len(x), images):
        padded = _pad(x[first : first + images], layer)
        if step > 1:
            taken = [np.arange((start + first + index) % step, oh * ow, step) for index in range(len(padded))]
            if any(map(len, taken)):
                yield _columns_at(padded, layer, ow, taken)
            continue
        for top in range(0, oh, rows):
            yield _columns(padded, layer, size, slice(top, min(top + rows, oh)))


def convolve(x: Array, layer: ConvLayer) -> Array:
    """The reference convolution: x [N, I, H, W] → [N, O, oh, ow]."""
    oh, ow = layer.output_size(*x.shape[2:])
    weight = layer.weight.reshape(layer.group, layer.out_channels // layer.group, -1)
    y: Array = np.matmul(weight, columns(x, layer)).reshape(layer.out_channels, len(x), oh, ow).transpose(1, 0, 2, 3)
    return y if layer.bias is None else y + layer.bias[:, None, None]


def convolve_chain(x: Array, chain: tuple[ConvLayer, ...]) -> Array:
    """`convolve` by each layer in turn."""
    for layer in chain:
        x = convolve(x, layer)
    return x


def _pad(x: Array, layer: ConvLayer) -> Array:
    top, left, bottom, right = layer.pads
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))) if any(layer.pads) else x


def _columns(padded: Array, layer: ConvLayer, size: tuple[int, int], rows: slice) -> Array:
    """Columns at the output rows `rows`. One strided copy per kernel element keeps the inner loop long."""
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel, layer.strides, layer.dilations
    count, channels = padded.shape[:2]
    height, width = rows.stop - rows.start, size[1]
    block = np.empty((channels, kh, kw, count, height, width), padded.dtype)
    for i in range(kh):
        for j in range(kw):
            y, x = rows.start * sh + i * dh, j * dw
            window = padded[:, :, y : y + (height - 1) * sh + 1 : sh, x : x + (width - 1) * sw + 1 : sw]
            block[:, i, j] = window.transpose(1, 0, 2, 3)
    return block.reshape(layer.group, -1, count * height * width)


def _columns_at(padded: Array, layer: ConvLayer, width: int, taken: Sequence[NDArray[np.intp]]) -> Array:
    """Columns at some output positions of each image, numbered by rows of `width`; the others are never made."""
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel, layer.strides, layer.dilations
    count, channels, _, across = padded.shape
    flat = padded.reshape(count, channels, -1)
    ends = np.cumsum([len(positions) for positions in taken])
    block = np.empty((channels, kh, kw, ends[-1]), padded.dtype)
    for image, positions, end in zip(flat, taken, ends, strict=True):
        y, x = np.divmod(positions, width)
        corner = y * sh * across + x * sw
        for i in range(kh):
            for j in range(kw):
                block[:, i, j, end - len(positions) : end] = image[:, corner + i * dh * across + j * dw]
    return block.reshape(layer.group, -1, ends[-1])
