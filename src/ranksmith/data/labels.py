"""Files of labels: line i names class i."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from ranksmith.errors import DataError

__all__ = ["IMAGENET_LABELS", "LabelLines", "read_labels"]

IMAGENET_LABELS = Path(__file__).with_name("imagenet-labels.txt")
"""The 1,000 classes of ILSVRC 2012 in sorted-synset order: synset id, then its WordNet lemmas."""


class LabelLines(Sequence[str]):
    """The lines of a labels file, and the class that a folder name or synset id stands for."""

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path = path
        self.lines = lines
        self._whole: defaultdict[str, list[int]] = defaultdict(list)
        self._first: defaultdict[str, list[int]] = defaultdict(list)
        for index, line in enumerate(lines):
            self._whole[line].append(index)
            self._first[line.split(maxsplit=1)[0]].append(index)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        return self.lines[position]

    def __len__(self) -> int:
        return len(self.lines)

    def find(self, name: str) -> int | None:
        """The class whose whole line, or else whose first word, is `name`; None where there is none.

        Raises:
            DataError: several lines match equally well.
        """
        found = self._whole.get(name) or self._first.get(name) or []
        if len(found) > 1:
            lines = " and ".join(str(index + 1) for index in found[:2])
            raise DataError(f"{self.path}: {name!r} matches lines {lines}", hint="make the first words unique")
        return found[0] if found else None


def read_labels(path: Path) -> LabelLines:
    """Read a labels file.

    Raises:
        DataError: it cannot be read, is empty, or has an empty line (line numbers are class indices).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a labels file: {error}") from error
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: the labels file is empty")
    if "" in lines:
        raise DataError(f"{path}: line {lines.index('') + 1} is empty", hint="line i must name class i")
    return LabelLines(path, lines)
