"""SVD of the weight as [O, I·kh·kw]: data-free, the baseline that the other kinds are measured against.

Kept because it is what most tools do. It minimises ‖Ŵ − W‖, which is the output's error only for
white inputs; without statistics the error it predicts is that one.
"""

from __future__ import annotations

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Kind, weight_matrix
from ranksmith.lowrank.kinds.projection import ProjectionAnalysis, full_rank, shapes
from ranksmith.lowrank.statistics import Moments

__all__ = ["WEIGHT_SVD"]


def _analyse(layer: ConvLayer, moments: Moments | None) -> ProjectionAnalysis:
    matrix = weight_matrix(layer)
    centre = np.zeros(layer.out_channels) if layer.bias is None else np.asarray(layer.bias, np.float64)
    if moments is None:
        moments = Moments(centre, matrix @ matrix.T)
    basis = np.linalg.svd(matrix, full_matrices=False)[0]
    return ProjectionAnalysis(layer, basis, centre, moments, corrects_mean=False)


WEIGHT_SVD = Kind(
    name="weight-svd",
    needs=None,
    optional=True,
    description="SVD of the weight: k×k into r channels, then 1×1; no data (baseline)",
    full_rank=full_rank,
    shapes=shapes,
    analyse=_analyse,
)
