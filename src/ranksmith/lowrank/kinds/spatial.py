"""Spatial: a kh×1 Conv then a 1×kw one, or the other way round (Jaderberg et al. 2014, here fitted to data).

Formulas in `shared` with s = (channel, kernel row), k = kernel column for vertical first, and
s = (channel, kernel column), k = kernel row for horizontal first. A strided layer's first factor
strides along its own axis only.
"""

from __future__ import annotations

from ranksmith.lowrank.kinds.index import IndexSplit
from ranksmith.lowrank.kinds.pair import pair_kind

__all__ = ["SPATIAL_HORIZONTAL", "SPATIAL_VERTICAL"]

SPATIAL_VERTICAL = pair_kind(
    "spatial-vertical",
    IndexSplit(order=(0, 1, 2), shared=2),
    "k×1 into r channels, then 1×k, fitted to the data",
)
SPATIAL_HORIZONTAL = pair_kind(
    "spatial-horizontal",
    IndexSplit(order=(0, 2, 1), shared=2),
    "1×k into r channels, then k×1, fitted to the data",
)
