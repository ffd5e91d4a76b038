"""A set of images can be gone through again and again, and says once what it could not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ranksmith.data.dataset import open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.progress import Silent
from ranksmith.workflow import images as images_module
from ranksmith.workflow.images import ImageSet
from tests.unit.workflow.scene import PREPROCESS, inputs_of, pictures

PICTURES = pictures(7)


class Counting(ArrayDataset):
    """Images in memory that count how often they are read."""

    reads = 0

    def read(self, index: int) -> np.ndarray:
        self.reads += 1
        return super().read(index)


def whole(images: ImageSet) -> np.ndarray:
    return np.concatenate([batch.images for batch in images.batches()])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number, image in enumerate(PICTURES[:4]):
        Image.fromarray(image).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"not a png")
    return folder


def test_the_images_come_in_order_and_batches_as_often_as_they_are_asked_for() -> None:
    dataset = Counting("pictures", PICTURES)
    images = ImageSet(dataset, np.array([5, 0, 3, 1, 6]), PREPROCESS, batch=2)
    assert len(images) == 5
    assert [len(batch) for batch in images.batches()] == [2, 2, 1]
    for _ in range(2):
        assert [batch.indices.tolist() for batch in images.batches()] == [[5, 0], [3, 1], [6]]
        np.testing.assert_allclose(whole(images), inputs_of(PICTURES[[5, 0, 3, 1, 6]]), atol=1e-6)
    assert dataset.reads == 5


def test_more_than_fit_in_memory_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "_KEEP_BYTES", 1000)
    dataset = Counting("pictures", PICTURES)
    images = ImageSet(dataset, np.arange(7), PREPROCESS, batch=3)
    np.testing.assert_array_equal(whole(images), whole(images))
    assert dataset.reads == 14


def test_whoever_stops_early_keeps_the_others_from_nothing() -> None:
    images = ImageSet(ArrayDataset("pictures", PICTURES), np.arange(7), PREPROCESS, batch=2)
    assert len(next(iter(images.batches()))) == 2
    assert len(whole(images)) == 7
    assert len(whole(images)) == 7


def test_what_cannot_be_read_is_told_once(files: Path) -> None:
    images = ImageSet(open_dataset(files), np.arange(4), PREPROCESS)
    listener = Silent()
    for _ in range(2):
        (batch,) = images.batches(listener.warn)
        assert len(batch) == 3
    assert len(images.skipped) == len(listener.warnings) == 1
    assert "2.png" in listener.warnings[0]


def test_what_an_earlier_run_skipped_is_told_as_if_it_were_read_now(files: Path) -> None:
    earlier = ImageSet(open_dataset(files), np.arange(4), PREPROCESS)
    list(earlier.batches())
    images, listener = ImageSet(open_dataset(files), np.arange(4), PREPROCESS), Silent()
    images.recall_skipped(earlier.skipped, listener.warn)
    images.recall_skipped(earlier.skipped, listener.warn)
    list(images.batches(listener.warn))
    assert images.skipped == earlier.skipped
    assert len(listener.warnings) == 1


def test_keys_are_of_the_content() -> None:
    images, turned = (
        ImageSet(ArrayDataset("pictures", content), np.array(order), PREPROCESS)
        for content, order in ((PICTURES, [1, 4]), (PICTURES[::-1].copy(), [5, 2]))
    )
    assert images.keys == turned.keys
    assert len(set(images.keys)) == 2


def test_the_first_of_them_are_a_set_of_their_own_that_shares_what_was_skipped(files: Path) -> None:
    images = ImageSet(open_dataset(files), np.arange(4), PREPROCESS)
    few = images.first(3)
    warned: list[str] = []
    assert [batch.indices.tolist() for batch in few.batches(warned.append)] == [[0, 1]]
    assert [batch.indices.tolist() for batch in images.batches(warned.append)] == [[0, 1, 3]]
    assert len(warned) == 1
