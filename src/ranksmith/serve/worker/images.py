"""An uploaded image as a row of the model's input: the very code that `evaluate` uses, behind a guard.

The guard reads the header alone. It bounds what the pixels take, what they take once resized (an image of one line is
scaled up along with its shorter side), and what the passes over them take (a progressive JPEG of a few megabytes can
ask for thousands).
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from ranksmith.data.images import decode
from ranksmith.data.preprocess import prepare
from ranksmith.errors import DataError
from ranksmith.results import Preprocess

__all__ = ["MAX_PIXELS", "row_of"]

MAX_PIXELS = 50_000_000

_MAX_SCANNED = 10 * MAX_PIXELS
_JPEG = b"\xff\xd8\xff"
_START_OF_SCAN = b"\xff\xda"


def row_of(encoded: bytes, preprocess: Preprocess) -> NDArray[Any]:
    """float32 [1, 3, h, w]

    Raises:
        DataError: not a JPEG, PNG, WebP or BMP, one that cannot be decoded, or one that is too large.
    """
    if not encoded:
        raise DataError("the image is empty")
    if not _is_accepted(encoded):
        raise DataError("the image is not a JPEG, PNG, WebP or BMP")
    return prepare(_pixels(encoded, preprocess), preprocess)[np.newaxis]


def _pixels(encoded: bytes, preprocess: Preprocess) -> NDArray[np.uint8]:
    try:
        height, width = _size(encoded)
        _check_size(height, width, encoded, preprocess)
        return decode(encoded, "the image")
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"the image has more than {MAX_PIXELS:,} pixels") from error
    # Pillow's decoders raise almost anything on hostile bytes; none of it may end the worker's task.
    except Exception as error:
        raise DataError("the image cannot be decoded") from error


def _size(encoded: bytes) -> tuple[int, int]:
    """Height and width, from the header."""
    if encoded.startswith(_JPEG):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
            return height, width
        except ValueError:
            pass  # Pillow has the last word, as in `decode`
    with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG", "WEBP", "BMP")) as image:
        return image.height, image.width


def _check_size(height: int, width: int, encoded: bytes, preprocess: Preprocess) -> None:
    told = f"the image of {height} by {width}"
    if height * width > MAX_PIXELS:
        raise DataError(f"{told} has more than {MAX_PIXELS:,} pixels")
    if min(height, width) < 1:
        raise DataError(f"{told} has no pixels")
    shorter = preprocess.resize_shorter
    if shorter is not None and shorter**2 * max(height, width) // min(height, width) > MAX_PIXELS:
        raise DataError(f"{told} is too long and narrow")
    # Inside a scan the two bytes cannot occur; a thumbnail may add some.
    if encoded.startswith(_JPEG) and height * width * encoded.count(_START_OF_SCAN) > _MAX_SCANNED:
        raise DataError(f"{told} has too many scans")


def _is_accepted(encoded: bytes) -> bool:
    """By its first bytes: formats with rarely used decoders are no business of a server."""
    starts = (_JPEG, b"\x89PNG\r\n\x1a\n", b"BM")
    return encoded.startswith(starts) or (encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP")
