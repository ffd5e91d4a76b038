"""What `quantize` found out and wrote."""

from __future__ import annotations

import msgspec

from ranksmith.results.graph import Skip

__all__ = ["QuantizeReport", "RangeMethod"]


class RangeMethod(msgspec.Struct, frozen=True, kw_only=True):
    """One way to choose the activations' ranges, judged on the calibration images."""

    method: str
    kl: float
    """Mean KL in nats from the float model's answers to the int8 model's."""
    agreement: float
    """The fraction of images to which both give the same class."""


class QuantizeReport(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.quantize/1"
    model: str
    data: str
    calibration: int
    """Images that the ranges come from."""
    method: str
    """The one that was taken."""
    methods: list[RangeMethod]
    """All that were tried, best first."""
    bytes_before: int
    bytes_after: int
    quantized: dict[str, int]
    """How many of each operator are computed in int8."""
    kept: list[Skip]
    """The operators that stayed float, and why."""
