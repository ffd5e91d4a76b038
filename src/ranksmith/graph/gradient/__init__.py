"""Gradients of a model with respect to its intermediate values, as another ONNX model.

Reverse-mode differentiation needs no training framework: the vector-Jacobian product of every operator is made of
ONNX operators again, so the gradient is one more graph that onnxruntime runs. Start at `gradient_model`;
`score_model` is the same of the logarithm of a drawn label's probability.
"""

from __future__ import annotations

from ranksmith.graph.gradient.build import SEED, gradient_model, gradient_name, score_model
from ranksmith.graph.gradient.label import DRAW

__all__ = ["DRAW", "SEED", "gradient_model", "gradient_name", "score_model"]
