"""Images in a NumPy archive: `images` uint8 [N, H, W, 3] and, optionally, `labels` [N]."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.dataset import content_key
from ranksmith.data.labels import LabelLines
from ranksmith.errors import DataError

__all__ = ["ArrayDataset", "open_npz"]

_HINT = "expected images uint8 [N, H, W, 3] and, optionally, integer labels [N]"


class ArrayDataset:
    """Images in memory."""

    def __init__(
        self,
        name: str,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        self.name = name
        self.images = images
        self.labels = labels
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> NDArray[np.uint8]:
        image: NDArray[np.uint8] = self.images[index]
        return image

    def key(self, index: int) -> str:
        image = np.ascontiguousarray(self.images[index])
        content = repr(image.shape).encode() + image.tobytes()
        return content_key(content, None if self.labels is None else int(self.labels[index]))


def open_npz(path: Path, *, lines: LabelLines | None = None) -> ArrayDataset:
    """Open an archive.

    Raises:
        DataError: it cannot be read, or its arrays are not as described above.
    """
    try:
        # The stream is ours to close: np.load leaves a broken archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if "images" not in archive:
                raise DataError(f"{path}: no array named 'images' (it has: {', '.join(archive) or 'none'})", hint=_HINT)
            images = archive["images"]
            labels = archive.get("labels")
    # A pickled array is a ValueError, an .npy a TypeError; the rest is what zipfile and the header parser raise.
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        raise DataError(f"{path}: cannot be read as an .npz: {error}", hint=_HINT) from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(f"{path}: images are {images.dtype} {list(images.shape)}", hint=_HINT)
    if 0 in images.shape:
        raise DataError(f"{path}: no images in this archive")
    if labels is not None:
        found = f"labels are {labels.dtype} {list(labels.shape)} for {len(images)} images"
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
            raise DataError(f"{path}: {found}", hint=_HINT)
        labels = labels.astype(np.int64)
        if labels.min() < 0:
            raise DataError(f"{path}: there is a label below 0")
    return ArrayDataset(path.stem, images, labels, None if lines is None else lines.lines)
