"""Factor a Conv: the kinds by name, and one entry for all of them, grouped or not.

For one rank call `factors`. For many ranks of a layer make a `Factorizer` and keep it: the eigendecompositions
are made once, and on the input side one factorisation serves all ranks, their errors and their factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.errors import RankError, UsageError
from ranksmith.lowrank.kinds.base import Analysis, Kind, Source
from ranksmith.lowrank.kinds.grouped import join_chains, join_projections, output_moments, split_layer
from ranksmith.lowrank.kinds.input_side import INPUT_SIDE
from ranksmith.lowrank.kinds.output_pca import OUTPUT_PCA
from ranksmith.lowrank.kinds.spatial import SPATIAL_HORIZONTAL, SPATIAL_VERTICAL
from ranksmith.lowrank.kinds.tucker2 import TUCKER2
from ranksmith.lowrank.kinds.weight_svd import WEIGHT_SVD
from ranksmith.lowrank.scarce import blend_input, blend_output
from ranksmith.lowrank.statistics import InputStatistics, Moments, OutputStatistics
from ranksmith.lowrank.weighting import weightings

__all__ = ["KINDS", "Factorizer", "Statistics", "factors", "full_rank", "kind_named", "output_projection"]

Float64 = NDArray[np.float64]
Statistics = OutputStatistics | InputStatistics

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (WEIGHT_SVD, OUTPUT_PCA, INPUT_SIDE, SPATIAL_VERTICAL, SPATIAL_HORIZONTAL, TUCKER2)
}


@dataclass(frozen=True, eq=False)
class Factorizer:
    """All ranks of one layer by one kind. The statistics must not change any more once it is used.

    Attributes:
        layer: the Conv, grouped or not.
        kind: a name in `KINDS`.
        statistics: of the layer's output or input, as the kind needs. Weight SVD takes output statistics
            if given, only to predict its error; without statistics the errors of weight SVD and
            tucker2 are those for white inputs.
        weighting: G [O, O], symmetric: the data-aware kinds minimise E (y − ŷ)ᵀG(y − ŷ). Of a grouped layer's
            the diagonal blocks are used. None: G = I.
        beside: of the same layer by a kind that takes the same statistics: what that one made of them is used.
    """

    layer: ConvLayer
    kind: str
    statistics: Statistics | None = None
    weighting: NDArray[np.floating[Any]] | None = None
    beside: Factorizer | None = None

    @property
    def full_rank(self) -> int:
        """The rank, per group, at which the layer is reproduced."""
        return full_rank(self.layer, self.kind)

    @property
    def undersampled(self) -> bool:
        """Whether the statistics are of fewer positions than they have entries, per group.

        Their covariance is singular then. The predicted errors allow for it (`scarce`), but on other images
        they may be twice as large.
        """
        found = self.statistics
        if found is None:
            return False
        return found.count < found.width // (1 if isinstance(found, InputStatistics) else self.layer.group)

    def factors(self, rank: int, *, rounds: int = 1) -> tuple[ConvLayer, ...]:
        """The chain at `rank`, first to last, in the weight's type.

        Args:
            rounds: alternating refinement of input-side and spatial factors, at most so many rounds: each fits the
                first factor to the second and the second to the first again, and is kept if the weighted error
                falls. `errors` does not know of it.

        Raises:
            RankError: a rank outside 1..full.
            UsageError: no such kind, or not the statistics it needs.
        """
        self._check(rank)
        return join_chains([part.factors(rank, rounds) for part in self._analyses])

    def errors(self, ranks: Sequence[int]) -> Float64:
        """Predicted relative L2 errors of the layer, ‖ŷ − y‖ / ‖y − ȳ‖ over the data, without building the chains.

        Of very few positions (`scarce`), over their blend with white noise. They are in the plain metric, G = I,
        whatever the weighting that the factors were made for.

        Raises:
            RankError: a rank outside 1..full.
            UsageError: no such kind, or not the statistics it needs.
        """
        for rank in ranks:
            self._check(rank)
        if not len(ranks):
            return np.zeros(0)
        energy = sum(part.energy for part in self._analyses)
        squared = np.sum([part.squared_errors(ranks) for part in self._analyses], axis=0)
        return np.asarray(np.sqrt(squared / energy) if energy > 0 else np.zeros(len(ranks)))

    def error(self, rank: int) -> float:
        """`errors` of one rank."""
        return float(self.errors([rank])[0])

    def projection(self, rank: int) -> tuple[Float64, Float64] | None:
        """(P [O, O], offset [O]) with ŷ = P·y + offset, or None for a kind that is no projection of the output.

        Raises:
            RankError: a rank outside 1..full.
            UsageError: no such kind, or not the statistics it needs.
        """
        self._check(rank)
        if self.kind not in (WEIGHT_SVD.name, OUTPUT_PCA.name):
            return None
        found = [part.projection(rank) for part in self._analyses]
        return join_projections([part for part in found if part is not None])

    def _check(self, rank: int) -> None:
        full = self.full_rank
        if not 1 <= rank <= full:
            raise RankError(
                f"rank {rank} is outside 1..{full} for {self.kind}",
                hint=f"the full rank of this layer by {self.kind} is {full}, at which nothing is saved",
            )

    @cached_property
    def _analyses(self) -> list[Analysis]:
        kind, layer = kind_named(self.kind), self.layer
        metrics = weightings(self.weighting, layer.out_channels, layer.group)
        return [kind.analyse(*each) for each in zip(split_layer(layer), self._sources, metrics, strict=True)]

    @cached_property
    def _sources(self) -> Sequence[Source | None]:
        if self.beside is not None and self.beside.statistics is self.statistics:
            return self.beside._sources
        return _group_sources(kind_named(self.kind), self.layer, self.statistics)


def factors(layer: ConvLayer, kind: str, rank: int, statistics: Statistics | None = None) -> tuple[ConvLayer, ...]:
    """The chain of Convs that replaces `layer`; see `Factorizer.factors`."""
    return Factorizer(layer, kind, statistics).factors(rank)


def output_projection(
    layer: ConvLayer, kind: str, rank: int, statistics: Statistics | None = None
) -> tuple[Float64, Float64] | None:
    """How the chain's output follows from the layer's; see `Factorizer.projection`."""
    return Factorizer(layer, kind, statistics).projection(rank)


def full_rank(layer: ConvLayer, kind: str) -> int:
    """The rank, per group, at which `kind` reproduces `layer`.

    Raises:
        UsageError: no such kind.
    """
    return kind_named(kind).full_rank(split_layer(layer)[0])


def kind_named(name: str) -> Kind:
    """The kind of this name.

    Raises:
        UsageError: no such kind.
    """
    if name not in KINDS:
        raise UsageError(f"no decomposition kind named {name!r}", hint=f"kinds: {', '.join(KINDS)}")
    return KINDS[name]


def _group_sources(kind: Kind, layer: ConvLayer, statistics: Statistics | None) -> Sequence[Source | None]:
    if statistics is None:
        if not kind.optional:
            raise UsageError(
                f"{kind.name} needs statistics of the layer's {kind.needs}", hint="gather them from calibration images"
            )
        return [None] * layer.group
    given = "input" if isinstance(statistics, InputStatistics) else "output"
    if given != (kind.needs or "output"):
        raise UsageError(f"{kind.name} takes statistics of the layer's {kind.needs or 'output'}, not of its {given}")
    parts = split_layer(layer)
    if isinstance(statistics, InputStatistics):
        return [Source(part, partial(_input_moments, statistics, part, group)) for group, part in enumerate(parts)]
    moments = output_moments(statistics.moments(), layer.group)
    return [Source(part, partial(blend_output, part, own)) for part, own in zip(parts, moments, strict=True)]


def _input_moments(statistics: InputStatistics, part: ConvLayer, group: int) -> Moments:
    return blend_input(part, statistics.moments(group))
