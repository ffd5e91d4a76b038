"""Some images of a dataset, prepared for a model, that can be gone through more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.dataset import Dataset
from ranksmith.data.loader import Batch, load
from ranksmith.results import Preprocess

__all__ = ["ImageSet", "first_batches"]

# Preprocessed images of a set are kept in memory up to here, and read again for each model above it.
_KEEP_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Some images of a dataset, preprocessed; kept in memory when they are few.

    Attributes:
        role: what they are for, as it is said to the user.
        skipped: why images could not be read, as far as they were read.
    """

    dataset: Dataset
    indices: NDArray[np.integer[Any]]
    preprocess: Preprocess
    batch: int = 8
    role: str = "calibration"
    _kept: list[Batch] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def keys(self) -> list[str]:
        """The content key of each image; kept, because making them reads every file."""
        return [self.dataset.key(int(index)) for index in self.indices]

    def batches(self, warn: Callable[[str], None] | None = None) -> Iterator[Batch]:
        """The images, in order; `warn` is told once of each that cannot be read."""
        if self._kept:
            yield from self._kept
            return
        height, width = self.preprocess.size
        fits = len(self.indices) * 3 * height * width * 4 <= _KEEP_BYTES
        kept: list[Batch] = []
        read = load(self.dataset, self.indices, self.preprocess, batch=self.batch, skipped=self.skipped, warn=warn)
        for batch in read:
            if fits:
                kept.append(batch)
            yield batch
        self._kept.extend(kept)

    def first(self, count: int) -> ImageSet:
        """The first `count` of them; what cannot be read is told once for both."""
        return replace(self, indices=self.indices[:count], _kept=[])

    def recall_skipped(self, reasons: Sequence[str], warn: Callable[[str], None]) -> None:
        """Take over what an earlier run, whose result was cached, could not read."""
        for reason in reasons:
            if reason not in self.skipped:
                self.skipped.append(reason)
                warn(f"skipped: {reason}")


def first_batches(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Whole batches, as many as it takes to hold `count` images, or all there are."""
    taken = 0
    for batch in batches:
        yield batch
        taken += len(batch)
        if taken >= count:
            return
