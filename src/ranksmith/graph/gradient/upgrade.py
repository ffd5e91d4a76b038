"""Bring models of old opsets to the one that the gradient rules are written in."""

from __future__ import annotations

import onnx
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir

from ranksmith.errors import ModelError
from ranksmith.graph.io import to_bytes
from ranksmith.graph.nodes import opset_of

__all__ = ["OPSET", "upgraded"]

OPSET = 13
"""The first in which axes and bounds are inputs and Softmax is along one axis."""


def upgraded(model: ir.Model) -> ir.Model:
    """A copy of `model` of at least `OPSET`; a plain copy where it cannot be converted."""
    if opset_of(model) >= OPSET:
        return model.clone()
    try:
        return ir.from_proto(onnx.version_converter.convert_version(onnx.load_from_string(to_bytes(model)), OPSET))
    except (
        ModelError,
        onnx.version_converter.ConvertError,
        onnx.shape_inference.InferenceError,
        RuntimeError,
        ValueError,
    ):
        return model.clone()
