"""The families of the frontier: what each is called, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from ranksmith.report.drawing import ACCENT, FAINT, INK, MUTED, SOFT
from ranksmith.results import Family, FrontierPoint

__all__ = ["FAMILIES", "UNTOUCHED", "Look", "family", "is_plan"]

UNTOUCHED: tuple[Family, ...] = ("original", "folded")


@dataclass(frozen=True)
class Look:
    label: str
    marker: str
    """Matplotlib's letter for it."""
    colour: str
    line: str | None
    """Colour of the line through the family's points; None where a family is a point."""


FAMILIES: dict[Family, Look] = {
    "original": Look("original", "s", INK, None),
    "folded": Look("folded", "s", MUTED, None),
    "uniform-svd": Look("uniform SVD", "X", MUTED, FAINT),
    "int8": Look("int8 alone", "D", INK, None),
    "low-rank": Look("low rank", "o", ACCENT, SOFT),
    "low-rank-int8": Look("low rank × int8", "^", ACCENT, SOFT),
}


def family(point: FrontierPoint) -> Family:
    """The family of a point; manifests that do not tell it name the original and the folded model so."""
    for name in UNTOUCHED:
        if point.name == name:
            return name
    return point.family


def is_plan(point: FrontierPoint) -> bool:
    """Whether it is something to choose: neither the model as it was, nor a method that is only compared with."""
    return family(point) in ("low-rank", "low-rank-int8", "int8")
