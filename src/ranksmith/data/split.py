"""Three disjoint parts of a dataset: to calibrate on, to choose on, and to judge on.

Images are put in the order of SHA-256(seed, content key), so the split depends on the seed and on what
the images are, not on their files' names or order, and it is the same on every machine.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.dataset import Dataset
from ranksmith.errors import DataError

__all__ = ["Split", "split"]

_FEW_HOLDOUT = 100


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into a dataset, int64, disjoint.

    Attributes:
        calibration: the images that statistics are taken from.
        selection: the images that candidates are compared on.
        holdout: the images that the final figures come from, and nothing else does.
        calibration_sha256: of the calibration images' content keys, sorted.
        warnings: what the user should know about this split.
    """

    calibration: NDArray[np.int64]
    selection: NDArray[np.int64]
    holdout: NDArray[np.int64]
    calibration_sha256: str
    warnings: list[str] = field(default_factory=list)


def split(dataset: Dataset, *, calibration: int, seed: int) -> Split:
    """Split `dataset`: `calibration` images (at most half of all), the rest in two halves.

    Unreadable files and duplicates take no part.

    Raises:
        DataError: fewer than three different images.
    """
    keys = _keys(dataset)
    order = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    if len(order) < 3:
        raise DataError(
            f"{dataset.name}: {len(order)} different images are too few to calibrate, choose and judge on",
            hint="at least 3 are needed; a few hundred give a meaningful result",
        )
    count = max(1, min(calibration, len(order) // 2))
    middle = count + (len(order) - count) // 2
    holdout = len(order) - middle
    warnings = []
    if count < calibration:
        warnings.append(f"{dataset.name}: calibrating on {count} images, half of what is there, not on {calibration}")
    if holdout < _FEW_HOLDOUT:
        warnings.append(f"{dataset.name}: accuracy is judged on {holdout} images only, so its interval is wide")
    if duplicates := len(dataset) - len(order):
        warnings.append(f"{dataset.name}: {duplicates} duplicate or unreadable files are left out")
    return Split(
        calibration=_indices(keys, order[:count]),
        selection=_indices(keys, order[count:middle]),
        holdout=_indices(keys, order[middle:]),
        calibration_sha256=hashlib.sha256("\n".join(sorted(order[:count])).encode()).hexdigest(),
        warnings=warnings,
    )


def _indices(keys: dict[str, int], part: list[str]) -> NDArray[np.int64]:
    return np.sort(np.asarray([keys[key] for key in part], np.int64))


def _keys(dataset: Dataset) -> dict[str, int]:
    """Content key to index; the last of several duplicates stands for them."""

    def key(index: int) -> str | None:
        try:
            return dataset.key(index)
        except DataError:
            return None

    # Hashing releases the interpreter, so threads read and hash side by side.
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(key, range(len(dataset))))
    return {key: index for index, key in enumerate(keys) if key is not None}
