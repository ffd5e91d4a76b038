"""What was decided for a layer, as figures, page and text ask for it."""

from __future__ import annotations

from ranksmith.results import LayerRecord, OptionRecord

__all__ = ["changed", "is_reference", "rank_words", "truncates_output", "verdict_words"]

_OUTPUT_SIDE = ("output-pca", "weight-svd")


def changed(layer: LayerRecord) -> bool:
    """Whether the layer computes otherwise than in the original: another shape, or int8."""
    return layer.rank is not None or layer.precision == "int8"


def truncates_output(layer: LayerRecord) -> bool:
    """Whether its rank counts directions of its output, so that it lies on the spectrum of the feature map."""
    return layer.rank is not None and layer.kind in _OUTPUT_SIDE


def rank_words(layer: LayerRecord, *, of: str = " of ") -> str:
    """`96 of 512`; of another kind only `96`, since the full rank on record is that of the output."""
    return f"{layer.rank}{of}{layer.full_rank}" if truncates_output(layer) else f"{layer.rank}"


def is_reference(option: OptionRecord) -> bool:
    """Whether it is the layer as it was, which the others are compared with."""
    return option.kind is None and option.precision == "fp32"


def verdict_words(option: OptionRecord) -> str:
    """Its verdict; none for the layer as it was, unless that was chosen."""
    return "" if is_reference(option) and option.verdict != "chosen" else option.verdict
