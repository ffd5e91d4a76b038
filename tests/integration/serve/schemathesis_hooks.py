"""Real images for schemathesis, which knows of image types only that they are bytes."""

from __future__ import annotations

import io

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image


def encoded(kind: str, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8 + seed, 12, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


for media_type, kind in {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WebP",
    "image/bmp": "BMP",
    "application/octet-stream": "PNG",
}.items():
    schemathesis.openapi.media_type(media_type, st.sampled_from([encoded(kind, seed) for seed in range(4)]))
