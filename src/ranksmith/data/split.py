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

__all__ = ["Split", "sample", "split"]

_FEW_HOLDOUT = 100


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into a dataset, int64, disjoint, each part in the order of the hashes.

    So the first few of a part are a fair sample of it, and sums over a part are the same to the last digit
    however the files are called.

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


def split(dataset: Dataset, *, calibration: int, seed: int, calibration_only: bool = False) -> Split:
    """Split `dataset`: `calibration` images (at most half of all); of the rest a quarter to choose on.

    Those to judge on are the most, since judging counts the few images whose class changes, and since whoever chooses
    may choose on the calibration images as well.

    Unreadable files and duplicates take no part.

    Args:
        calibration: how many images to calibrate on; 0 where they come from another dataset.
        calibration_only: this is that other dataset; nothing of it is chosen or judged on.

    Raises:
        DataError: too few different images for one in each part.
    """
    keys = _keys(dataset)
    order = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    least = 1 if calibration_only else 2 + (calibration > 0)
    if len(order) < least:
        raise DataError(
            f"{dataset.name}: {len(order)} different images are too few to calibrate, choose and judge on",
            hint=f"at least {least} are needed; a few hundred give a meaningful result",
        )
    count = min(calibration, len(order) if calibration_only else len(order) // 2)
    rest = [] if calibration_only else order[count:]
    part = max(1, len(rest) // 4) if rest else 0
    warnings = []
    if count < calibration:
        warnings.append(f"{dataset.name}: calibrating on {count} images, there are not enough for {calibration}")
    if not calibration_only and len(rest) - part < _FEW_HOLDOUT:
        warnings.append(f"{dataset.name}: judged on {len(rest) - part} images only, so the intervals are wide")
    if left_out := len(dataset) - len(order):
        warnings.append(f"{dataset.name}: {left_out} duplicate or unreadable files are left out")
    return Split(
        calibration=_indices(keys, order[:count]),
        selection=_indices(keys, rest[:part]),
        holdout=_indices(keys, rest[part:]),
        calibration_sha256=hashlib.sha256("\n".join(sorted(order[:count])).encode()).hexdigest(),
        warnings=warnings,
    )


def sample(count: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """`limit` of the indices 0 … count − 1 at random, sorted; all of them when there are no more."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(count, size=limit, replace=False)).astype(np.int64)


def _indices(keys: dict[str, int], part: list[str]) -> NDArray[np.int64]:
    return np.asarray([keys[key] for key in part], np.int64)


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
