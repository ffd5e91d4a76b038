"""How much each rank retains, and what it does to the model's output."""

from __future__ import annotations

import msgspec

__all__ = ["Spectrum", "SpectrumReport", "SweepPoint", "SweepReport"]


class Spectrum(msgspec.Struct, frozen=True, kw_only=True):
    """Cumulative energy against rank of one Conv: entry i is the energy that rank i + 1 retains."""

    node: str
    output: list[float]
    """Of the covariance of the Conv's output (feature map) over the data."""
    weight: list[float]
    """Of the squared singular values of the weight as [O, I·kh·kw]."""


class SpectrumReport(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.spectrum/1"
    model: str
    data: str
    images: int
    spectra: list[Spectrum]


class SweepPoint(msgspec.Struct, frozen=True, kw_only=True):
    rank: int
    output_relative_l2: float
    output_clipped_relative: float
    output_mean_abs: float
    output_max_abs: float
    layer_relative_l2: float
    layer_clipped_relative: float
    layer_mean_abs: float
    layer_max_abs: float
    macs_ratio: float
    """Multiply-adds of the pair over those of the Conv."""


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.sweep/1"
    model: str
    node: str
    kind: str
    data: str
    images: int
    threshold: float
    """Magnitudes below this fraction of the largest are clipped to it in the relative error."""
    points: list[SweepPoint]
    best: dict[str, int]
    """The rank with the least of each error among those cheaper than the Conv."""
