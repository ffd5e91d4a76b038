"""Encoded images to pixels: simplejpeg for JPEG, Pillow for the rest.

Always the full-size decode: libjpeg's scaled decoding is faster but is another image, and accuracy
figures would not be those of the same steps done by hand. EXIF orientation is ignored.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ranksmith.errors import DataError

__all__ = ["MAX_PIXELS", "SUFFIXES", "decode"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

# Pillow's own limit: a file of a few kilobytes must not be able to ask for gigabytes.
MAX_PIXELS = 89_478_485

_DIRECT = ("RGB", "YCbCr", "GRAY", "Gray")


def decode(encoded: bytes, name: str) -> NDArray[np.uint8]:
    """Decode an image file to RGB, uint8 [H, W, 3]. Transparency is dropped.

    Args:
        name: what to call the file in an error.

    Raises:
        DataError: not an image, truncated, or of more than `MAX_PIXELS` pixels.
    """
    if not encoded:
        raise DataError(f"{name}: the file is empty")
    if encoded.startswith(b"\xff\xd8") and (pixels := _decode_jpeg(encoded, name)) is not None:
        return pixels
    return _decode_any(encoded, name)


def _decode_jpeg(encoded: bytes, name: str) -> NDArray[np.uint8] | None:
    """None where Pillow must decide: CMYK, and files that libjpeg has complaints about."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
        _check_size(height, width, name)
        if colorspace not in _DIRECT:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "RGB")
    except ValueError:
        return None
    return pixels


def _decode_any(encoded: bytes, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            _check_size(image.height, image.width, name)
            image.load()
            return _as_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image") from error
    # Pillow's decoders raise these, and SyntaxError for a broken PNG.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, MemoryError) as error:
        raise DataError(f"{name}: cannot be decoded: {error}") from error


def _as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips 16-bit grey to 255 instead of scaling it.
        grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _check_size(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise DataError(f"{name}: {height} by {width} is more than {MAX_PIXELS:,} pixels")
