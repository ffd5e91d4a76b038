"""Decoding whatever image files hold."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ranksmith.data.images import decode
from ranksmith.errors import DataError


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3).astype(np.uint8)
    return Image.fromarray(ramp)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF"])
def test_lossless_formats_come_back_exactly(picture: Image.Image, kind: str) -> None:
    encoded = _encoded(picture, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert (decode(encoded, "p") == np.asarray(picture)).all()


@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 75, "progressive": True}, {"subsampling": 0}])
def test_a_jpeg_is_what_pillow_makes_of_it(picture: Image.Image, options: dict[str, object]) -> None:
    encoded = _encoded(picture, "JPEG", **options)
    by_hand = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)
    assert np.abs(decode(encoded, "p").astype(int) - by_hand).max() <= 1


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_colours_become_rgb(picture: Image.Image, mode: str) -> None:
    encoded = _encoded(picture.convert(mode), "JPEG", quality=95)
    by_hand = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)
    decoded = decode(encoded, "p")
    assert decoded.shape == (24, 32, 3)
    assert np.abs(decoded.astype(int) - by_hand).max() <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_pngs_of_other_modes_become_rgb(picture: Image.Image, mode: str) -> None:
    assert decode(_encoded(picture.convert(mode), "PNG"), "p").shape == (24, 32, 3)


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(picture: Image.Image) -> None:
    encoded = _encoded(picture.convert("P"), "PNG", transparency=bytes(range(256)))
    assert decode(encoded, "p").shape == (24, 32, 3)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = np.full((4, 4), 0x8000, np.uint16)
    assert (decode(_encoded(Image.fromarray(deep), "PNG"), "p") == 0x80).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_names_its_file(picture: Image.Image, kind: str) -> None:
    encoded = _encoded(picture, kind)
    with pytest.raises(DataError, match=r"folder/bad\.img"):
        decode(encoded[: len(encoded) // 2], "folder/bad.img")


@pytest.mark.parametrize("encoded", [b"", b"not an image", b"\xff\xd8 not a jpeg", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_names_its_file(encoded: bytes) -> None:
    with pytest.raises(DataError, match=r"text\.png"):
        decode(encoded, "text.png")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=r"bomb.png.*pixels"):
        decode(bomb, "bomb.png")


def test_a_huge_jpeg_is_refused_by_its_header(picture: Image.Image) -> None:
    encoded = _encoded(picture, "JPEG")
    start = encoded.index(b"\xff\xc0") + 5
    huge = encoded[:start] + struct.pack(">HH", 60_000, 60_000) + encoded[start + 4 :]
    with pytest.raises(DataError, match="pixels"):
        decode(huge, "huge.jpg")
