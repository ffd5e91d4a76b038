"""An uploaded image as a row of the model's input: the very code that `evaluate` uses, behind a guard."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.images import decode
from ranksmith.data.preprocess import prepare
from ranksmith.errors import DataError
from ranksmith.results import Preprocess

__all__ = ["row_of"]


def row_of(encoded: bytes, preprocess: Preprocess) -> NDArray[Any]:
    """float32 [1, 3, h, w]

    Raises:
        DataError: not a JPEG, PNG, WebP or BMP, or one that cannot be decoded.
    """
    if encoded and not _is_accepted(encoded):
        raise DataError("the image is not a JPEG, PNG, WebP or BMP")
    return prepare(decode(encoded, "the image"), preprocess)[np.newaxis]


def _is_accepted(encoded: bytes) -> bool:
    """By its first bytes: formats with rarely used decoders are no business of a server."""
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")
    return encoded.startswith(starts) or (encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP")
