"""Output PCA with mean correction: the principal directions of the Conv's output over the data, in a metric.

Formulas in `projection`. One eigendecomposition of an O × O covariance gives every rank and its exact error.
"""

from __future__ import annotations

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.kinds.base import Kind, Source, weight_matrix
from ranksmith.lowrank.kinds.projection import ProjectionAnalysis, full_rank, output_basis, shapes
from ranksmith.lowrank.weighting import Weighting

__all__ = ["OUTPUT_PCA"]


def _analyse(layer: ConvLayer, source: Source | None, weighting: Weighting) -> ProjectionAnalysis:
    assert source is not None
    moments = source.moments
    left, right = output_basis(weight_matrix(layer), moments.covariance, weighting)
    return ProjectionAnalysis(layer, left, right, moments.mean, moments, corrects_mean=True)


OUTPUT_PCA = Kind(
    name="output-pca",
    needs="output",
    optional=False,
    description="principal components of the output: k×k into r channels, then 1×1",
    full_rank=full_rank,
    shapes=shapes,
    analyse=_analyse,
)
