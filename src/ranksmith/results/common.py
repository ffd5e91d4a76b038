"""The machine, files, tensors and images: what every other result refers to."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["FileInfo", "Interval", "Machine", "Preprocess", "ValueInfo"]

Interval = tuple[float, float]
"""(low, high); 95 % unless named otherwise."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where something was measured."""

    cpu: str
    flags: list[str]
    """Only the flags that change kernels: avx2, avx512f, avx512_vnni, avx512_bf16, amx_tile, …"""
    cores: int
    memory_bytes: int
    os: str
    python: str
    libraries: dict[str, str]


class ValueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A graph input or output. A symbolic dimension is its name."""

    name: str
    dtype: str
    shape: list[int | str] | None


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    sha256: str
    bytes: int


class Preprocess(msgspec.Struct, frozen=True, kw_only=True):
    """From a decoded RGB image (uint8, HWC) to the model's input (float32, CHW), as data.

    Steps, in order: scale so that the shorter side is `resize_shorter` (None: no scaling); crop the
    centre to `size`; if neither brings the image to `size`, scale to exactly `size`; subtract `mean` and
    divide by `std`, both on the 0..255 scale.
    """

    name: str
    size: tuple[int, int]
    """(height, width) of the model's input."""
    resize_shorter: int | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: Literal["RGB", "BGR"] = "RGB"
