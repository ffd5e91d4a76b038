"""What could be done to each layer: its options, with their cost and predicted error.

An option's error is the predicted relative L2 error of the layer, √(1 − energy); for output PCA it follows
from the spectrum alone, so that no factor has to be built to list the options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.cost import aligned_ranks, chain_macs, skeleton

__all__ = ["Layer", "Option", "candidate_options", "pareto"]

_DEFAULT_MARGIN = 0.05


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv that may be decomposed.

    Attributes:
        node: its name.
        layer: its weights and geometry.
        input_hw: (height, width) of its input.
        energy: cumulative energy of its output by rank (per group), `spectra.retained_energy`.
        error: predicted relative L2 error of (kind, rank), for the kinds other than output PCA.
    """

    node: str
    layer: ConvLayer
    input_hw: tuple[int, int]
    energy: NDArray[np.floating[Any]]
    error: Callable[[str, int], float] | None = None


@dataclass(frozen=True)
class Option:
    """One way to decompose one layer.

    Attributes:
        macs, dense_macs: multiply-adds for one image, of the option and of the layer.
        params, dense_params: number of parameters.
        error: predicted relative L2 error of the layer.
        ms, dense_ms: time in context of the option and of the layer; None until measured.
    """

    node: str
    kind: str
    rank: int
    macs: int
    dense_macs: int
    params: int
    dense_params: int
    error: float
    ms: float | None = None
    dense_ms: float | None = None

    @property
    def energy(self) -> float:
        """Fraction of the output's energy that is retained."""
        return max(0.0, 1.0 - self.error**2)

    def timed(self, ms: float, dense_ms: float) -> Option:
        """The same option with its measured times."""
        return replace(self, ms=ms, dense_ms=dense_ms)


def candidate_options(
    layer: Layer, *, block: int, kinds: Sequence[str] = ("output-pca",), margin: float = _DEFAULT_MARGIN
) -> list[Option]:
    """The options of a layer worth timing, cheapest first: aligned, cheaper, and none better in both respects.

    Args:
        block: ranks are multiples of it, the number of channels that the runtime handles at once.
        kinds: which decompositions to consider.
        margin: an option has at most (1 − margin) of the layer's multiply-adds; a smaller gain drowns in the
            overhead of one more Conv.

    Raises:
        UsageError: no such kind.
        ValueError: a kind whose error `layer` cannot predict.
    """
    height, width = layer.input_hw
    dense_macs = layer.layer.macs(height, width)
    options = []
    for kind in kinds:
        for rank in aligned_ranks(layer.layer, kind, block, h=height, w=width, margin=margin):
            chain = skeleton(layer.layer, kind, rank)
            options.append(
                Option(
                    node=layer.node,
                    kind=kind,
                    rank=rank,
                    macs=chain_macs(chain, height, width),
                    dense_macs=dense_macs,
                    params=sum(part.parameters for part in chain),
                    dense_params=layer.layer.parameters,
                    error=_predicted_error(layer, kind, rank),
                )
            )
    return pareto(options)


def pareto(options: Iterable[Option]) -> list[Option]:
    """Those that no other option beats in multiply-adds and error at once, cheapest first.

    Of several equal ones the first given stays.
    """
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.macs, option.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return kept


def _predicted_error(layer: Layer, kind: str, rank: int) -> float:
    if kind == "output-pca":
        return float(np.sqrt(max(0.0, 1.0 - float(layer.energy[rank - 1]))))
    if layer.error is None:
        raise ValueError(f"{layer.node}: the error of {kind} is not predicted by the spectrum; pass Layer.error")
    return layer.error(kind, rank)
