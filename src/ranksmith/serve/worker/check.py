"""What a model that is to replace another has to show before it gets a request."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ranksmith.bundle.golden import load_golden
from ranksmith.errors import BundleError, ModelError
from ranksmith.graph import io
from ranksmith.serve.worker.model import ServedModel

__all__ = ["check_file", "check_golden"]

_STANDARD = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
_TOLERANCE = 1e-3
"""Of the largest golden output. The same file on another CPU differs by rounding, in int8 by a step of a scale."""


def check_file(path: Path) -> None:
    """Read it as `graph.io` does, with all its checks; refuse operators that a library would have to bring.

    Raises:
        ModelError: it is damaged, reaches out of its directory, or has custom operators.
    """
    model = io.load(path)
    if foreign := sorted(set(model.opset_imports) - _STANDARD):
        raise ModelError(f"{path.name}: operators of the domain {foreign[0]!r} cannot be served")


def check_golden(model: ServedModel, path: Path) -> None:
    """Run the golden inputs.

    Raises:
        BundleError: an output is not what it was when the bundle was built, or a label changed.
    """
    inputs, outputs = load_golden(path)
    count = len(next(iter(inputs.values())))
    rows = count if model.is_batchable else 1
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        got = model.run({name: array[part] for name, array in inputs.items()}, list(outputs))
        for name, array in outputs.items():
            expected = array[part]
            largest = max(float(np.abs(expected).max()), 1e-6)
            off = float(np.abs(np.asarray(got[name], np.float64) - expected).max()) / largest
            if not off <= _TOLERANCE:
                raise BundleError(f"the golden output {name!r} is off by {off:.2g} of its largest value")
            if expected.ndim == 2 and (got[name].argmax(1) != expected.argmax(1)).any():
                raise BundleError(f"the golden output {name!r} has another best class")
