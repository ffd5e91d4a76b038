"""What a dataset is, and how to open one: a directory, an `.npz`, or ImageNet's validation tar."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ranksmith.errors import DataError

__all__ = ["Dataset", "content_key", "open_dataset"]


class Dataset(Protocol):
    """Images that can be read in any order and from any thread."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The class index of each image, int64 [len]; None where there are no labels."""
        ...

    @property
    def class_names(self) -> list[str] | None:
        """Name i is that of class i; None where nobody said."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """The image, RGB uint8 [H, W, 3].

        Raises:
            DataError: this image cannot be read; the message names its file.
        """
        ...

    def key(self, index: int) -> str:
        """A SHA-256 of the image's content and label, the same wherever the image stands in the set.

        Raises:
            DataError: the file cannot be read.
        """
        ...


def content_key(content: bytes | memoryview, label: int | None) -> str:
    """The key of an image with this content (encoded file, or pixels) and label."""
    digest = hashlib.sha256(b"-" if label is None else str(label).encode())
    digest.update(b"\n")
    digest.update(content)
    return digest.hexdigest()


def open_dataset(path: Path, *, labels: Path | None = None, devkit: Path | None = None) -> Dataset:
    """Open what `path` holds.

    Args:
        path: a directory of class folders or of images, an `.npz`, or `ILSVRC2012_img_val.tar`.
        labels: a file whose line i names class i.
        devkit: `ILSVRC2012_devkit_t12.tar.gz`, with the tar only.

    Raises:
        DataError: nothing usable is there; the message says what was found.
    """
    from ranksmith.data import folder, ilsvrc, npz
    from ranksmith.data.labels import read_labels

    lines = None if labels is None else read_labels(labels)
    if not path.exists():
        raise DataError(f"{path}: no such file or directory", hint="--data takes a directory, an .npz or a .tar")
    if path.name.endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
        raise DataError(f"{path}: a compressed tar cannot be read in place", hint="decompress it to a .tar first")
    if path.suffix == ".tar":
        return ilsvrc.open_tar(path, devkit=devkit, lines=lines)
    if devkit is not None:
        raise DataError(f"{path}: --devkit goes with ILSVRC2012_img_val.tar, which this is not")
    if path.is_dir():
        return folder.open_folder(path, lines=lines)
    if path.suffix == ".npz":
        return npz.open_npz(path, lines=lines)
    raise DataError(f"{path}: neither a directory nor an .npz nor a .tar", hint="see --data in the manual")
