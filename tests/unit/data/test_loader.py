"""Batches in order, whatever fails and whenever the consumer stops."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.data.loader import load, make_batch
from ranksmith.errors import DataError
from ranksmith.results import Preprocess

PLAIN = Preprocess(name="plain", size=(2, 2))


class Numbered:
    """Image i is filled with i; those in `broken` cannot be read."""

    name = "numbered"
    class_names = None

    def __init__(self, count: int, broken: Iterable[int] = (), *, labelled: bool = True) -> None:
        self.count = count
        self.broken = set(broken)
        self.labels = np.arange(count, dtype=np.int64) * 10 if labelled else None
        self.reads = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> np.ndarray:
        with self._lock:
            self.reads += 1
        if index in self.broken:
            raise DataError(f"{index}.png: broken")
        return np.full((2, 2, 3), index, np.uint8)

    def key(self, index: int) -> str:
        return str(index)


def _decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ranksmith-decode")]


@settings(max_examples=30, deadline=None)
@given(
    indices=st.lists(st.integers(0, 19), max_size=30),
    broken=st.sets(st.integers(0, 19), max_size=6),
    batch=st.integers(1, 7),
    workers=st.integers(1, 4),
)
def test_readable_images_come_in_order_in_full_batches(
    indices: list[int], broken: set[int], batch: int, workers: int
) -> None:
    dataset = Numbered(20, broken)
    skipped: list[str] = []
    batches = list(load(dataset, indices, PLAIN, batch=batch, workers=workers, skipped=skipped))
    expected = [index for index in indices if index not in broken]
    assert [index for item in batches for index in item.indices] == expected
    assert [int(image[0, 0, 0]) for item in batches for image in item.images] == expected
    assert [label for item in batches if item.labels is not None for label in item.labels] == [10 * i for i in expected]
    assert all(len(item) == batch for item in batches[:-1])
    assert sorted(skipped) == sorted(f"{index}.png: broken" for index in broken & set(indices))


def test_a_broken_image_is_warned_about_once() -> None:
    dataset = Numbered(6, {1, 4})
    skipped: list[str] = []
    warnings: list[str] = []
    for _ in range(2):
        list(load(dataset, [0, 1, 1, 4, 5], PLAIN, batch=2, skipped=skipped, warn=warnings.append))
    assert warnings == ["skipped: 1.png: broken", "skipped: 4.png: broken"]
    assert len(skipped) == 2


def test_stopping_early_ends_the_threads_and_reads_little_more() -> None:
    dataset = Numbered(10_000)
    for item in load(dataset, range(10_000), PLAIN, batch=4, workers=2):
        assert len(item) == 4
        break
    assert not _decoders()
    assert dataset.reads < 50


def test_a_consumer_that_raises_ends_the_threads() -> None:
    def consume() -> None:
        for _ in load(Numbered(1000), range(1000), PLAIN, batch=4, workers=3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert not _decoders()


def test_a_failure_that_is_not_of_the_image_reaches_the_consumer() -> None:
    class Faulty(Numbered):
        def read(self, index: int) -> np.ndarray:
            if index == 3:
                raise ZeroDivisionError
            return super().read(index)

    with pytest.raises(ZeroDivisionError):
        list(load(Faulty(8), range(8), PLAIN, batch=2))
    assert not _decoders()


def test_unlabelled_images_come_without_labels() -> None:
    (item,) = load(Numbered(2, labelled=False), [0, 1], PLAIN, batch=2)
    assert item.labels is None


def test_one_batch_can_be_made_at_once() -> None:
    item = make_batch(Numbered(5), [3, 1], PLAIN)
    assert item.indices.tolist() == [3, 1]
    assert item.images.shape == (2, 3, 2, 2)
    with pytest.raises(DataError, match=r"1\.png"):
        make_batch(Numbered(5, {1}), [3, 1], PLAIN)
