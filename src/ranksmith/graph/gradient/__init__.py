"""Gradients of a model with respect to its intermediate values, as another ONNX model.

Reverse-mode differentiation needs no training framework: the vector-Jacobian product of every operator is made of
ONNX operators again, so the gradient is one more graph that onnxruntime runs. Start at `gradient_model`.
"""

from __future__ import annotations

from ranksmith.graph.gradient.build import SEED, gradient_model, gradient_name
from ranksmith.graph.gradient.logits import logits_of

__all__ = ["SEED", "gradient_model", "gradient_name", "logits_of"]
