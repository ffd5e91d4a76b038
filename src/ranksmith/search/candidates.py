"""What could be done to each layer: its options, with their cost, predicted error and, once measured, time and damage.

An option is a decomposition kind with a rank, or none (the layer keeps its shape), in a precision. Its error is the
predicted relative L2 error of the layer's output; its damage what that does to the model's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.cost import aligned_ranks, chain_macs, skeleton
from ranksmith.results import Precision

__all__ = ["Layer", "Option", "candidate_options", "near_pareto", "pareto"]

_LEAST_SAVED = 0.05
"""Of the layer's multiply-adds; a smaller gain drowns in the overhead of one more Conv."""
_MOST_SAVED = 0.85
"""A rank that saves more than this costs more accuracy than it could ever be worth."""

Errors = Callable[[str, Sequence[int]], NDArray[np.floating[Any]]]


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv that may be decomposed.

    Attributes:
        node: its name.
        layer: its weights and geometry.
        input_hw: (height, width) of its input.
        errors: predicted relative L2 errors of a kind at several ranks.
    """

    node: str
    layer: ConvLayer
    input_hw: tuple[int, int]
    errors: Errors


@dataclass(frozen=True)
class Option:
    """One thing that can be done to one layer.

    Attributes:
        kind, rank: of the decomposition; both None where the layer keeps its shape.
        macs, dense_macs: multiply-adds for one image, of the option and of the layer.
        params, dense_params: number of parameters.
        error: predicted relative L2 error of the layer, by the decomposition alone.
        precision: in which it is computed.
        ms, dense_ms: time of the option and of what it replaces, in context; None until measured.
        damage: estimated divergence that it adds to the model's answer, in nats; None until estimated.
    """

    node: str
    kind: str | None
    rank: int | None
    macs: int
    dense_macs: int
    params: int
    dense_params: int
    error: float
    precision: Precision = "fp32"
    ms: float | None = None
    dense_ms: float | None = None
    damage: float | None = None

    @property
    def energy(self) -> float:
        """Fraction of the output's energy that is retained."""
        return max(0.0, 1.0 - self.error**2)

    @property
    def name(self) -> str:
        """`kind:rank`, or `dense`; unique among the options of a layer in one precision."""
        return "dense" if self.kind is None else f"{self.kind}:{self.rank}"

    @property
    def saved_ms(self) -> float | None:
        """Milliseconds that it saves; None until measured."""
        return None if self.ms is None or self.dense_ms is None else self.dense_ms - self.ms

    def timed(self, ms: float, dense_ms: float) -> Option:
        """The same option with its measured times."""
        return replace(self, ms=ms, dense_ms=dense_ms)


def candidate_options(layer: Layer, *, block: int, kinds: Sequence[str], most: int = 8) -> list[Option]:
    """The options of a layer worth timing: aligned and cheaper, by kind and from the strongest to the mildest.

    Which ranks are listed depends on the layer's shape alone, so that layers of one shape are timed once.

    Args:
        block: ranks are multiples of it, the number of channels that the runtime handles at once.
        kinds: which decompositions to consider.
        most: ranks of one kind, evenly spaced: wide layers have dozens.

    Raises:
        UsageError: no such kind.
    """
    height, width = layer.input_hw
    dense_macs = layer.layer.macs(height, width)
    options = []
    for kind in kinds:
        ranks = aligned_ranks(layer.layer, kind, block, h=height, w=width, margin=_LEAST_SAVED)
        macs = {rank: chain_macs(skeleton(layer.layer, kind, rank), height, width) for rank in ranks}
        ranks = [rank for rank in ranks if macs[rank] >= (1 - _MOST_SAVED) * dense_macs] or ranks[-1:]
        if len(ranks) > most:
            ranks = [ranks[index] for index in np.linspace(0, len(ranks) - 1, most).round().astype(int)]
        if not ranks:
            continue
        for rank, error in zip(ranks, layer.errors(kind, ranks), strict=True):
            options.append(
                Option(
                    node=layer.node,
                    kind=kind,
                    rank=rank,
                    macs=macs[rank],
                    dense_macs=dense_macs,
                    params=sum(part.parameters for part in skeleton(layer.layer, kind, rank)),
                    dense_params=layer.layer.parameters,
                    error=float(error),
                )
            )
    return options


def pareto(options: Iterable[Option], cost: Callable[[Option], float]) -> list[Option]:
    """Those that no other option beats in cost and error at once, cheapest first.

    Of several equal ones the first given stays.
    """
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (cost(option), option.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return kept


def near_pareto(options: Sequence[Option], cost: Callable[[Option], float], margin: float) -> list[Option]:
    """Those that no option of at most their error beats in cost by more than `margin`, a fraction; in the order given.

    What costs otherwise somewhere else, as in another precision, is unlikely to overtake by more than that.
    """
    least = {option.name: min(cost(other) for other in options if other.error <= option.error) for option in options}
    return [option for option in options if cost(option) <= (1 + margin) * least[option.name]]
