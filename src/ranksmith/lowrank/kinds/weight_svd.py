"""SVD of the weight as [O, I·kh·kw]: data-free, the baseline that the other kinds are measured against.

Kept because it is what most tools do. It minimises ‖Ŵ − W‖, which is the output's error only for
white inputs; without statistics the error it predicts is that one. A weighting of the output does not move it.
"""

from __future__ import annotations

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Kind, Source, own_bias, weight_matrix
from ranksmith.lowrank.kinds.projection import ProjectionAnalysis, full_rank, shapes
from ranksmith.lowrank.statistics import Moments
from ranksmith.lowrank.weighting import Weighting

__all__ = ["WEIGHT_SVD"]


def _analyse(layer: ConvLayer, source: Source | None, _: Weighting) -> ProjectionAnalysis:
    matrix, centre = weight_matrix(layer), own_bias(layer)
    moments = source.moments if source else Moments(centre, matrix @ matrix.T)
    basis = np.linalg.svd(matrix, full_matrices=False)[0]
    return ProjectionAnalysis(layer, basis, basis.T, centre, moments, corrects_mean=False)


WEIGHT_SVD = Kind(
    name="weight-svd",
    needs=None,
    optional=True,
    description="SVD of the weight: k×k into r channels, then 1×1; no data (baseline)",
    full_rank=full_rank,
    shapes=shapes,
    analyse=_analyse,
)
