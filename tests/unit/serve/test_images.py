"""What a worker makes of an uploaded image, and what it does not even try."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ranksmith.data.images import decode
from ranksmith.data.preprocess import PRESETS, prepare
from ranksmith.errors import DataError
from ranksmith.results import Preprocess
from ranksmith.serve.worker import images
from ranksmith.serve.worker.images import MAX_PIXELS, row_of

IMAGENET = PRESETS["imagenet"]
BARE = Preprocess(name="bare", size=(8, 8), resize_shorter=None, mean=(0, 0, 0), std=(1, 1, 1))


def encoded(kind: str, height: int = 40, width: int = 60, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def png_of(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header has been overwritten."""
    found = bytearray(encoded("JPEG"))
    at = found.index(b"\xff\xc0") + 5
    found[at : at + 4] = struct.pack("!HH", height, width)
    return bytes(found)


@pytest.fixture
def never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(encoded: bytes, name: str) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(images, "decode", decode)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_row_is_what_evaluation_makes_of_the_image(kind: str) -> None:
    content = encoded(kind)
    row = row_of(content, IMAGENET)
    assert (row.shape, row.dtype) == ((1, 3, 224, 224), np.float32)
    np.testing.assert_array_equal(row[0], prepare(decode(content, "x"), IMAGENET))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO"])
def test_other_formats_are_not_tried(never_decoded: None, kind: str) -> None:
    with pytest.raises(DataError, match=r"^the image is not a JPEG, PNG, WebP or BMP$"):
        row_of(encoded(kind), IMAGENET)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "content", [png_of(60_000, 60_000), png_of(12_000, 9_000), png_of(7_072, 7_072), jpeg_of(60_000, 60_000)]
)
def test_a_bomb_is_told_by_its_header(never_decoded: None, content: bytes) -> None:
    with pytest.raises(DataError, match=r"more than 50,000,000 pixels$"):
        row_of(content, IMAGENET)


def test_a_line_that_would_be_scaled_to_gigabytes_is_refused(never_decoded: None) -> None:
    with pytest.raises(DataError, match=r"^the image of 1 by 40000 is too long and narrow$"):
        row_of(png_of(40_000, 1), IMAGENET)


def test_a_line_is_taken_where_nothing_is_scaled_along_with_it() -> None:
    assert row_of(encoded("PNG", height=1, width=40_000), BARE).shape == (1, 3, 8, 8)


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused(never_decoded: None) -> None:
    content = encoded("JPEG", 400, 600, progressive=True)
    last = content.rindex(b"\xff\xda")
    scans = MAX_PIXELS * 10 // (400 * 600) + 1
    with pytest.raises(DataError, match=r"^the image of 400 by 600 has too many scans$"):
        row_of(content[:-2] + content[last:-2] * scans + content[-2:], IMAGENET)


def test_an_ordinary_progressive_jpeg_is_taken() -> None:
    assert row_of(encoded("JPEG", 400, 600, progressive=True), IMAGENET).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_wherever_it_is_cut_off_there_is_one_error(kind: str) -> None:
    content = encoded(kind, 16, 16)
    for size in range(0, len(content) - 20, 7):
        with pytest.raises(DataError, match=r"^the image"):
            row_of(content[:size], IMAGENET)


def test_whatever_a_decoder_raises_is_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(encoded: bytes, name: str) -> None:
        raise RuntimeError("at 0xdeadbeef")

    monkeypatch.setattr(images, "decode", decode)
    with pytest.raises(DataError, match=r"^the image cannot be decoded$"):
        row_of(encoded("PNG"), IMAGENET)
