"""What the demo model is asked with by NVIDIA's gRPC client."""

from __future__ import annotations

from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

__all__ = ["Array", "asked", "pictures"]

Array = NDArray[Any]


def pictures(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, 3, 32, 32)).astype(np.float32)


def asked(name: str, array: Array) -> triton.InferInput:
    found = triton.InferInput(name, array.shape, "FP32")
    found.set_data_from_numpy(array)
    return found
