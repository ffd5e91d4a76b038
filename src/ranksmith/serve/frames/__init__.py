"""The frames that front ends, workers and the supervisor exchange, as pure bytes in and out.

Nothing here does input or output, and nothing but the standard library is needed: `encode` gives the buffers to write,
a `Decoder` takes bytes as they come.
"""

from __future__ import annotations

from ranksmith.serve.frames.decoder import Decoder
from ranksmith.serve.frames.encoder import encode
from ranksmith.serve.frames.format import DEFAULT_LIMITS, ELEMENT_BYTES, Frame, FrameError, Kind, Limits, Tensor
from ranksmith.serve.frames.stack import stack, unstack

__all__ = [
    "DEFAULT_LIMITS",
    "ELEMENT_BYTES",
    "Decoder",
    "Frame",
    "FrameError",
    "Kind",
    "Limits",
    "Tensor",
    "encode",
    "stack",
    "unstack",
]
