"""ImageNet's validation tar, read in place, and its devkit: real layout and member names, a few images."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ranksmith.data.dataset import open_dataset
from ranksmith.data.ilsvrc import GROUND_TRUTH, META
from ranksmith.errors import DataError

# (ILSVRC2012_ID, WNID, words, children): IDs are not in the order of the WordNet ids, and 4 is no leaf.
SYNSETS = [
    (1, "n02119789", "kit fox, Vulpes macrotis", []),
    (2, "n02100735", "English setter", []),
    (3, "n01440764", "tench, Tinca tinca", []),
    (4, "n00001740", "entity", [1, 2, 3]),
]
LEAVES = ["n01440764", "n02100735", "n02119789"]
TRUTH = [1, 3, 2, 1, 2]
COLOURS = [10, 60, 110, 160, 210]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _meta() -> bytes:
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    table = np.zeros((len(SYNSETS), 1), dtype=[(field, object) for field in fields])
    for row, (identifier, wnid, words, children) in enumerate(SYNSETS):
        table[row, 0] = (
            np.float64(identifier), wnid, words, f"about {words}", np.float64(len(children)),
            np.array([children], np.float64), np.float64(len(children) > 0), np.float64(1300),
        )  # fmt: skip
    stream = io.BytesIO()
    savemat(stream, {"synsets": table})
    return stream.getvalue()


def _devkit(path: Path, *, meta: bytes | None = None, truth: str | None = None, leave_out: str = "") -> Path:
    members = {
        "ILSVRC2012_devkit_t12/readme.txt": b"the devkit",
        META: _meta() if meta is None else meta,
        GROUND_TRUTH: (truth if truth is not None else "".join(f"{entry}\n" for entry in TRUTH)).encode(),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if name != leave_out:
                _add(archive, name, content)
    return path


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    return _devkit(tmp_path / "ILSVRC2012_devkit_t12.tar.gz")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images, not in order, image i of one colour."""
    path = tmp_path / "ILSVRC2012_img_val.tar"
    with tarfile.open(path, "w") as archive:
        for number in (2, 1, 5, 4, 3):
            stream = io.BytesIO()
            Image.new("RGB", (8, 6), (COLOURS[number - 1],) * 3).save(stream, "JPEG", quality=95)
            _add(archive, f"ILSVRC2012_val_{number:08d}.JPEG", stream.getvalue())
    return path


def test_labels_are_places_among_the_sorted_leaf_synsets(images: Path, devkit: Path) -> None:
    dataset = open_dataset(images, devkit=devkit)
    assert dataset.labels is not None
    # IDs 1, 3, 2, 1, 2 are the synsets n02119789, n01440764, n02100735, …
    assert dataset.labels.tolist() == [2, 0, 1, 2, 1]
    assert dataset.class_names == [
        "n01440764 tench, Tinca tinca",
        "n02100735 English setter",
        "n02119789 kit fox, Vulpes macrotis",
    ]


def test_labels_follow_the_labels_file_when_there_is_one(images: Path, devkit: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("background\nn02119789 kit fox\nn02100735\nn01440764 tench\n")
    dataset = open_dataset(images, devkit=devkit, labels=labels)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 3, 2, 1, 2]
    assert dataset.class_names is not None
    assert dataset.class_names[0] == "background"


def test_images_come_by_number_from_any_thread(images: Path, devkit: Path) -> None:
    dataset = open_dataset(images, devkit=devkit)
    indices = list(range(5)) * 20
    with ThreadPoolExecutor(4) as pool:
        means = list(pool.map(lambda index: float(dataset.read(index).mean()), indices))
    assert np.abs(np.array(means) - np.array(COLOURS)[indices]).max() < 2


def test_without_the_devkit_there_are_no_labels(images: Path) -> None:
    dataset = open_dataset(images)
    assert dataset.labels is None
    assert len(dataset) == 5
    assert len({dataset.key(index) for index in range(5)}) == 5


def test_a_synset_without_a_line_is_named(images: Path, devkit: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("n02119789\nn02100735\n")
    with pytest.raises(DataError, match=r"labels\.txt.*n01440764"):
        open_dataset(images, devkit=devkit, labels=labels)


def test_a_cut_off_tar_names_the_image(images: Path) -> None:
    dataset = open_dataset(images)
    images.write_bytes(images.read_bytes()[:1024])
    with pytest.raises(DataError, match="the tar ends inside"):
        dataset.read(4)
    images.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        dataset.key(0)


def test_a_tar_without_images_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w") as archive:
        _add(archive, "readme.txt", b"nothing")
    with pytest.raises(DataError, match="no images"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("holiday.jpg", "not a name of the validation set"), ("ILSVRC2012_val_00000009.JPEG", "no ground truth")],
)
def test_an_image_the_devkit_does_not_know_is_named(tmp_path: Path, devkit: Path, name: str, reason: str) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w") as archive:
        _add(archive, name, b"image")
    with pytest.raises(DataError, match=reason):
        open_dataset(path, devkit=devkit)


def test_a_devkit_without_its_files_is_told(tmp_path: Path, images: Path) -> None:
    for number, member in enumerate((META, GROUND_TRUTH)):
        broken = _devkit(tmp_path / f"devkit{number}.tar.gz", leave_out=member)
        with pytest.raises(DataError, match=member):
            open_dataset(images, devkit=broken)


@pytest.mark.parametrize("meta", [b"not a mat file at all", b""])
def test_a_broken_synset_table_is_told(tmp_path: Path, images: Path, meta: bytes) -> None:
    with pytest.raises(DataError, match=r"meta\.mat"):
        open_dataset(images, devkit=_devkit(tmp_path / "devkit.tar.gz", meta=meta))


def test_a_table_of_something_else_is_told(tmp_path: Path, images: Path) -> None:
    stream = io.BytesIO()
    savemat(stream, {"synsets": np.eye(2)})
    with pytest.raises(DataError, match="synset table"):
        open_dataset(images, devkit=_devkit(tmp_path / "devkit.tar.gz", meta=stream.getvalue()))


@pytest.mark.parametrize("truth", ["1\n9\n", "1\nfox\n"])
def test_ground_truth_that_contradicts_the_table_is_told(tmp_path: Path, images: Path, truth: str) -> None:
    with pytest.raises(DataError, match="ground_truth"):
        open_dataset(images, devkit=_devkit(tmp_path / "devkit.tar.gz", truth=truth))


def test_a_devkit_that_is_absent_or_no_archive_is_told(tmp_path: Path, images: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_dataset(images, devkit=tmp_path / "absent.tar.gz")
    other = tmp_path / "other.tar.gz"
    other.write_bytes(b"text")
    with pytest.raises(DataError, match="cannot be read as the devkit"):
        open_dataset(images, devkit=other)
