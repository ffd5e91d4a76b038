"""From a decoded image to a model's input: specified once, as data, used by evaluation and serving.

Resizing is Pillow's (antialiased when it shrinks), so a result equals the same steps done by hand
with PIL, pixel for pixel. EXIF orientation is ignored, as everywhere where ImageNet is evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ranksmith.config import read_preprocess
from ranksmith.errors import DataError, UsageError
from ranksmith.results import Preprocess

__all__ = ["PRESETS", "guess", "named_or_file", "prepare"]

PRESETS: dict[str, Preprocess] = {
    "imagenet": Preprocess(
        name="imagenet",
        size=(224, 224),
        resize_shorter=256,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
    "cifar10": Preprocess(
        name="cifar10",
        size=(32, 32),
        resize_shorter=32,
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
    ),
}

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def named_or_file(text: str) -> Preprocess:
    """The preset of this name, or what the TOML file at this path says.

    Raises:
        UsageError: neither a preset nor a file.
        DataError: a file that is not valid preprocessing.
    """
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    if path.suffix == ".toml" or path.is_file():
        return read_preprocess(path)
    raise UsageError(f"no preprocessing named {text!r}", hint=f"choose {', '.join(PRESETS)} or give a .toml file")


def guess(input_shape: Sequence[int | str] | None) -> tuple[Preprocess, str]:
    """A guess from the model's input shape [N, 3, H, W], and the warning to show with it.

    Raises:
        DataError: the shape is not that of a batch of RGB images, so a guess would be idle.
    """
    shape = list(input_shape or [])
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise DataError(
            f"cannot guess the preprocessing for an input of shape {shape or 'unknown'}: expected [N, 3, H, W]",
            hint="only models that take RGB images, channels first, are supported",
        )
    height, width = (side if isinstance(side, int) else 224 for side in shape[2:])
    if (height, width) == (32, 32):
        chosen = PRESETS["cifar10"]
    elif (height, width) == (224, 224):
        chosen = PRESETS["imagenet"]
    else:
        base = PRESETS["imagenet"]
        chosen = Preprocess(
            name=f"imagenet-{height}x{width}",
            size=(height, width),
            resize_shorter=round(max(height, width) * 256 / 224),
            mean=base.mean,
            std=base.std,
        )
    return chosen, f"preprocessing guessed from the input shape: {chosen.name} (say --preprocess to be sure)"


def prepare(image: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """Bring an image uint8 [H, W, 3] RGB to the model's input float32 [3, h, w].

    See `Preprocess` for the steps. `mean` and `std` are in the order of `channels`.
    """
    height, width = preprocess.size
    image = _resized_shorter(image, preprocess)
    image = _cropped(image, height, width)
    if image.shape[:2] != (height, width):
        image = _resized(image, height, width, preprocess)
    if preprocess.channels == "BGR":
        image = image[:, :, ::-1]
    mean = np.asarray(preprocess.mean, np.float32)[:, None, None]
    std = np.asarray(preprocess.std, np.float32)[:, None, None]
    values = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    values -= mean
    values /= std
    return values


def _resized_shorter(image: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    if preprocess.resize_shorter is None:
        return image
    height, width = image.shape[:2]
    shorter, target = min(height, width), preprocess.resize_shorter
    # The longer side is rounded down, as torchvision does.
    return _resized(image, height * target // shorter, width * target // shorter, preprocess)


def _resized(image: NDArray[np.uint8], height: int, width: int, preprocess: Preprocess) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), _FILTERS[preprocess.interpolation])
    return np.asarray(resized)


def _cropped(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The centre of at most `height` × `width`."""
    top = max(image.shape[0] - height, 0)
    left = max(image.shape[1] - width, 0)
    # Half of an odd remainder is rounded to even, as torchvision does.
    top, left = round(top / 2), round(left / 2)
    return image[top : top + height, left : left + width]
