"""Preprocessing equals the same steps done by hand with PIL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from ranksmith.data.preprocess import PRESETS, guess, named_or_file, prepare
from ranksmith.errors import DataError, UsageError
from ranksmith.results import Preprocess


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _by_hand(image: np.ndarray) -> np.ndarray:
    """ImageNet's usual steps, written with nothing but PIL and NumPy."""
    picture = Image.fromarray(image)
    width, height = picture.size
    if width < height:
        picture = picture.resize((256, int(256 * height / width)), Image.Resampling.BILINEAR)
    else:
        picture = picture.resize((int(256 * width / height), 256), Image.Resampling.BILINEAR)
    left, top = round((picture.width - 224) / 2), round((picture.height - 224) / 2)
    picture = picture.crop((left, top, left + 224, top + 224))
    values = (np.asarray(picture, np.float64) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    return values.transpose(2, 0, 1)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(20, 400), width=st.integers(20, 400))
def test_imagenet_equals_pil_by_hand(height: int, width: int) -> None:
    image = _image(height, width)
    prepared = prepare(image, PRESETS["imagenet"])
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous
    assert_allclose(prepared, _by_hand(image), atol=1e-5)


def test_cifar_images_are_only_normalised() -> None:
    image = _image(32, 32)
    expected = (image / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert_allclose(prepare(image, PRESETS["cifar10"]), expected.transpose(2, 0, 1), atol=1e-5)


def test_an_image_of_another_shape_is_scaled_to_cifar_size() -> None:
    assert prepare(_image(100, 60), PRESETS["cifar10"]).shape == (3, 32, 32)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), shorter=st.sampled_from([None, 5, 18]))
def test_the_size_asked_for_comes_out_of_any_image(height: int, width: int, shorter: int | None) -> None:
    asked = Preprocess(name="t", size=(12, 16), resize_shorter=shorter)
    assert prepare(_image(height, width), asked).shape == (3, 12, 16)


def test_without_resizing_the_centre_is_cropped() -> None:
    image = _image(10, 12)
    prepared = prepare(image, Preprocess(name="t", size=(4, 6)))
    assert_array_equal(prepared, image[3:7, 3:9].transpose(2, 0, 1))


def test_bgr_turns_the_channels_round_before_the_mean() -> None:
    image = _image(4, 4)
    prepared = prepare(image, Preprocess(name="t", size=(4, 4), channels="BGR", mean=(10.0, 20.0, 30.0)))
    assert_array_equal(prepared[0], image[:, :, 2].astype(np.float32) - 10)


def test_presets_and_files_are_found_by_name(tmp_path: Path) -> None:
    assert named_or_file("imagenet") is PRESETS["imagenet"]
    path = tmp_path / "own.toml"
    path.write_text("size = 64")
    assert named_or_file(str(path)).size == (64, 64)


def test_an_unknown_preset_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="imagnet") as caught:
        named_or_file("imagnet")
    assert "cifar10" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("shape", "name", "size"),
    [
        (["N", 3, 32, 32], "cifar10", (32, 32)),
        ([1, 3, 224, 224], "imagenet", (224, 224)),
        (["N", 3, "h", "w"], "imagenet", (224, 224)),
        (["N", 3, 299, 299], "imagenet-299x299", (299, 299)),
    ],
)
def test_a_guess_follows_the_input_and_warns(shape: list[int | str], name: str, size: tuple[int, int]) -> None:
    guessed, warning = guess(shape)
    assert (guessed.name, guessed.size) == (name, size)
    assert name in warning
    assert "--preprocess" in warning


@pytest.mark.parametrize("shape", [None, ["N", 8], ["N", 1, 28, 28], ["N", 224, 224, 3]])
def test_no_guess_for_what_is_no_rgb_image(shape: list[int | str] | None) -> None:
    with pytest.raises(DataError, match="cannot guess"):
        guess(shape)
