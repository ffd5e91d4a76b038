"""Images in a directory: one folder per class, or no folders and no labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.dataset import content_key
from ranksmith.data.images import SUFFIXES, decode
from ranksmith.data.labels import LabelLines
from ranksmith.errors import DataError

__all__ = ["FolderDataset", "open_folder"]


class FolderDataset:
    """Image files on disk, with or without labels."""

    def __init__(
        self, name: str, files: list[Path], labels: NDArray[np.int64] | None, class_names: list[str] | None
    ) -> None:
        self.name = name
        self.files = files
        self.labels = labels
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> NDArray[np.uint8]:
        return decode(self._content(index), str(self.files[index]))

    def key(self, index: int) -> str:
        return content_key(self._content(index), None if self.labels is None else int(self.labels[index]))

    def _content(self, index: int) -> bytes:
        try:
            return self.files[index].read_bytes()
        except OSError as error:
            raise DataError(f"{self.files[index]}: cannot be read: {error.strerror}") from error


def open_folder(path: Path, *, lines: LabelLines | None = None) -> FolderDataset:
    """Open a directory.

    A directory with folders that hold images is a labelled set: the folders' sorted names give the class
    index, or the lines that they match. Otherwise the images in it are an unlabelled set. Hidden files and
    files that are not images are ignored.

    Raises:
        DataError: no image is there, or a folder matches no line.
    """
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    by_class = {folder.name: _images_below(folder) for folder in folders}
    if any(by_class.values()):
        return _labelled(path, by_class, lines)
    files = _images_in(path)
    if not files:
        raise DataError(f"{path}: no images in this directory", hint=f"looked for {', '.join(sorted(SUFFIXES))}")
    return FolderDataset(path.name, files, None, None if lines is None else lines.lines)


def _labelled(path: Path, by_class: dict[str, list[Path]], lines: LabelLines | None) -> FolderDataset:
    files: list[Path] = []
    labels: list[int] = []
    for position, (name, images) in enumerate(by_class.items()):
        # A folder without images keeps its number, and needs no line.
        if images:
            label = position if lines is None else _line_of(path / name, lines)
            files += images
            labels += [label] * len(images)
    names = list(by_class) if lines is None else lines.lines
    return FolderDataset(path.name, files, np.asarray(labels, np.int64), names)


def _line_of(folder: Path, lines: LabelLines) -> int:
    label = lines.find(folder.name)
    if label is None:
        raise DataError(
            f"{folder}: no line of {lines.path} has {folder.name!r} as its first word or whole text",
            hint="rename the folder, or leave out --labels to number the folders in sorted order",
        )
    return label


def _images_below(folder: Path) -> list[Path]:
    found = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names if _is_image(name)]
    return sorted(found)


def _images_in(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if _is_image(entry.name) and entry.is_file())


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
