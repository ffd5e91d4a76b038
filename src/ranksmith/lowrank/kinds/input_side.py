"""Input-side: 1×1 into r channels, then the layer's own k×k; the first factor's principal input directions.

Formulas in `shared` with s = input channel and k = (kernel row, kernel column).
"""

from __future__ import annotations

from ranksmith.lowrank.kinds.index import IndexSplit
from ranksmith.lowrank.kinds.pair import pair_kind

__all__ = ["INPUT_SIDE", "INPUT_SPLIT"]

INPUT_SPLIT = IndexSplit(order=(0, 1, 2), shared=1)
INPUT_SIDE = pair_kind("input-side", INPUT_SPLIT, "1×1 into r channels, then k×k, fitted to the data")
