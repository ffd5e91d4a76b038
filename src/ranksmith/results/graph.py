"""What a pass over a graph changed, and what a model consists of."""

from __future__ import annotations

import msgspec

from ranksmith.results.common import ValueInfo

__all__ = ["Change", "ConvInfo", "Inspection", "PassReport", "Skip"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    what: str


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    why: str


class PassReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a transformation changed, and what it skipped and why."""

    schema: str = "ranksmith.pass/1"
    name: str
    changed: list[Change] = []
    skipped: list[Skip] = []


class ConvInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One Conv as `inspect` shows it."""

    node: str
    weight_shape: list[int]
    strides: list[int]
    pads: list[int]
    dilations: list[int]
    group: int
    input_shape: list[int | str] | None
    output_shape: list[int | str] | None
    macs: int | None
    """Multiply-adds for one image; None where the shape is unknown."""
    params: int
    full_rank: int
    break_even_rank: int
    """Below this rank an output-side pair has fewer multiply-adds than the Conv."""
    candidate: bool
    reason: str
    """Why it is not a candidate (`kept-stem`, `kept-depthwise`, …), or `candidate`."""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "ranksmith.inspection/1"
    model: str
    bytes: int
    opset: int
    inputs: list[ValueInfo]
    outputs: list[ValueInfo]
    nodes: int
    operators: dict[str, int]
    params: int
    macs: int | None
    convs: list[ConvInfo]
