"""Check a model against the ONNX specification, by `onnx.checker`."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.checker
import onnx.shape_inference
import onnx_ir as ir

from ranksmith.errors import ModelError
from ranksmith.graph.io import load, to_bytes

__all__ = ["verify"]

_FULL_CHECK_LIMIT_BYTES = 512 * 1024 * 1024
"""Above this, types and shapes are not inferred anew: that takes several copies of the model in memory."""


def verify(model: ir.Model | Path) -> None:
    """Check a model in memory or a file with its external data.

    Raises:
        ModelError: it cannot be read or breaks the specification; the message is the checker's first line.
    """
    if isinstance(model, Path):
        load(model)
        subject: onnx.ModelProto | str = str(model)
        size_bytes, name = model.stat().st_size, str(model)
    else:
        content = to_bytes(model)
        subject, size_bytes, name = onnx.ModelProto.FromString(content), len(content), "the model"
    try:
        onnx.checker.check_model(subject, full_check=size_bytes < _FULL_CHECK_LIMIT_BYTES)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{name} is not a valid ONNX model: {reason}") from error
