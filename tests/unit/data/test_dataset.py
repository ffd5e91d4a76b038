"""Opening directories and archives of images, and matching their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ranksmith.data.dataset import open_dataset
from ranksmith.data.labels import read_labels
from ranksmith.errors import DataError


def _write_image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, value, value)).save(path)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Folders `b` and `a`, three images in all, among other files."""
    root = tmp_path / "pictures"
    _write_image(root / "b" / "1.png", 1)
    _write_image(root / "a" / "2.JPG", 2)
    _write_image(root / "a" / "deeper" / "3.webp", 3)
    _write_image(root / "a" / ".hidden.png", 4)
    (root / "a" / "notes.txt").write_text("no image")
    (root / ".checkpoints").mkdir()
    (root / "README.md").write_text("no image")
    return root


def test_class_folders_are_numbered_in_sorted_order(classes: Path) -> None:
    dataset = open_dataset(classes)
    assert (dataset.name, len(dataset), dataset.class_names) == ("pictures", 3, ["a", "b"])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.read(2).shape == (4, 4, 3)


@pytest.mark.parametrize("lines", ["x\na first\nb", "x\na\nb second", "x\na, the letter\nb\n\n"])
def test_a_folder_matches_the_line_of_its_first_word_or_whole_text(classes: Path, tmp_path: Path, lines: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(lines.replace("a,", "a "))
    dataset = open_dataset(classes, labels=labels)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 1, 2]
    assert dataset.class_names is not None
    assert len(dataset.class_names) == 3


def test_the_whole_text_of_a_line_comes_before_a_first_word(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("crane the machine\ncrane")
    assert read_labels(labels).find("crane") == 1


def test_a_folder_with_spaces_matches_a_whole_line(tmp_path: Path) -> None:
    _write_image(tmp_path / "data" / "great white shark" / "1.png")
    labels = tmp_path / "labels.txt"
    labels.write_text("tench\ngreat white shark\n")
    dataset = open_dataset(tmp_path / "data", labels=labels)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1]


def test_a_folder_that_is_in_no_line_is_named(classes: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nc\n")
    with pytest.raises(DataError, match=r"pictures/b.*labels\.txt"):
        open_dataset(classes, labels=labels)


def test_an_ambiguous_folder_name_is_told(classes: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a one\na two\nb\n")
    with pytest.raises(DataError, match="matches lines 1 and 2"):
        open_dataset(classes, labels=labels)


def test_a_folder_without_images_keeps_its_number_but_needs_no_line(classes: Path, tmp_path: Path) -> None:
    (classes / "aa").mkdir()
    labels = tmp_path / "labels.txt"
    labels.write_text("b\na\n")
    numbered, matched = open_dataset(classes).labels, open_dataset(classes, labels=labels).labels
    assert numbered is not None
    assert numbered.tolist() == [0, 0, 2]
    assert matched is not None
    assert matched.tolist() == [1, 1, 0]


def test_images_without_folders_have_no_labels(tmp_path: Path) -> None:
    for name in ("2.png", "1.png"):
        _write_image(tmp_path / "flat" / name)
    dataset = open_dataset(tmp_path / "flat")
    assert dataset.labels is None
    assert dataset.class_names is None
    assert len(dataset) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "empty"), ("a\n\nb", "line 2 is empty"), (b"\xff\xfe\xff", "cannot be read"), (None, "no such file")],
)
def test_a_wrong_labels_file_is_told(tmp_path: Path, content: str | bytes | None, reason: str) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=reason):
        read_labels(path)


def test_labels_read_as_a_sequence_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("a\nb\nc\n")
    lines = read_labels(path)
    assert (list(lines), lines[0], lines[1:], len(lines)) == (["a", "b", "c"], "a", ["b", "c"], 3)


def test_an_empty_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent", "no such file"), ("a.tar.gz", "compressed tar"), ("a.zip", "neither"), ("a.tar", "uncompressed tar")],
)
def test_what_is_no_dataset_is_told(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    if name != "absent":
        path.write_bytes(b"something")
    with pytest.raises(DataError, match=reason):
        open_dataset(path)


def test_a_devkit_for_anything_but_the_tar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--devkit"):
        open_dataset(tmp_path, devkit=tmp_path / "devkit.tar.gz")


def test_a_file_that_went_away_is_named(classes: Path) -> None:
    dataset = open_dataset(classes)
    (classes / "b" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png"):
        dataset.read(2)


IMAGES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def test_an_archive_gives_its_images_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=IMAGES, labels=np.array([3, 1], np.uint8))
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\n")
    dataset = open_dataset(path, labels=names)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [3, 1]
    assert dataset.class_names == ["a", "b", "c", "d"]
    assert (dataset.read(1) == IMAGES[1]).all()


def test_an_archive_needs_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=IMAGES)
    assert open_dataset(path).labels is None


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"pictures": IMAGES}, "no array named 'images'"),
        ({"images": IMAGES.astype(np.float32)}, "float32"),
        ({"images": IMAGES[..., 0]}, r"\[2, 4, 5\]"),
        ({"images": IMAGES[:0]}, "no images"),
        ({"images": IMAGES, "labels": np.array([1])}, "for 2 images"),
        ({"images": IMAGES, "labels": np.array([0.5, 1.0])}, "float64"),
        ({"images": IMAGES, "labels": np.array([-1, 1])}, "below 0"),
        ({"images": np.array([{"a": 1}, None], object)}, "cannot be read"),
    ],
)
def test_a_wrong_archive_is_told(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=reason) as caught:
        open_dataset(path)
    assert "wrong.npz" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_what_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.npz"):
        open_dataset(path)


def test_a_key_tells_content_and_label_apart(tmp_path: Path) -> None:
    same = np.zeros((2, 4, 4, 3), np.uint8)
    for name, labels in (("equal", [1, 1]), ("labelled", [1, 2])):
        np.savez(tmp_path / f"{name}.npz", images=same, labels=np.array(labels))
    equal, labelled = open_dataset(tmp_path / "equal.npz"), open_dataset(tmp_path / "labelled.npz")
    assert equal.key(0) == equal.key(1) == labelled.key(0)
    assert labelled.key(0) != labelled.key(1)
