"""One convolution as plain data: what `graph` reads from a model and `lowrank` turns into a chain.

A decomposition of a Conv is a tuple of `ConvLayer`, applied first to last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ConvLayer"]


@dataclass(frozen=True, eq=False)
class ConvLayer:
    """A 2-D convolution in ONNX's conventions.

    Attributes:
        weight: [O, I / group, kh, kw], float32 or float64.
        bias: [O] or None.
        strides: (vertical, horizontal).
        pads: (top, left, bottom, right).
        dilations: (vertical, horizontal).
        group: number of groups.
    """

    weight: NDArray[np.floating]
    bias: NDArray[np.floating] | None = None
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1

    @property
    def out_channels(self) -> int:
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[1]) * self.group

    @property
    def kernel(self) -> tuple[int, int]:
        return int(self.weight.shape[2]), int(self.weight.shape[3])

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output for an input of `height` × `width`."""
        top, left, bottom, right = self.pads
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]
        return (
            (height + top + bottom - spans[0]) // self.strides[0] + 1,
            (width + left + right - spans[1]) // self.strides[1] + 1,
        )

    def macs(self, height: int, width: int) -> int:
        """Multiply-adds for one input of `height` × `width` (the input's size, not the output's)."""
        out_height, out_width = self.output_size(height, width)
        return int(self.weight.size) * out_height * out_width

    @property
    def parameters(self) -> int:
        return int(self.weight.size) + (0 if self.bias is None else int(self.bias.size))
