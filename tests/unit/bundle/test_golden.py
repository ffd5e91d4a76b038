"""Golden inputs and outputs: stored by name, read without unpickling."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranksmith.bundle.golden import load_golden, save_golden
from ranksmith.errors import BundleError

IMAGES = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
ANSWERS = np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)


def test_arrays_come_back_under_their_names(tmp_path: Path) -> None:
    save_golden(tmp_path / "golden.npz", {"file": IMAGES}, {"out/logits": ANSWERS, "": ANSWERS[:, :1]})
    inputs, outputs = load_golden(tmp_path / "golden.npz")
    assert list(inputs) == ["file"]
    assert list(outputs) == ["out/logits", ""]
    np.testing.assert_array_equal(inputs["file"], IMAGES)
    np.testing.assert_array_equal(outputs["out/logits"], ANSWERS)
    assert outputs["out/logits"].dtype == np.float32


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_golden(tmp_path / name, {"x": IMAGES}, {"y": ANSWERS})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("inputs", "outputs"), [({}, {"y": ANSWERS}), ({"x": IMAGES}, {}), ({"x": IMAGES}, {"y": ANSWERS[:1]})]
)
def test_samples_that_do_not_match_are_not_written(tmp_path: Path, inputs: Any, outputs: Any) -> None:
    with pytest.raises(ValueError, match="golden samples"):
        save_golden(tmp_path / "golden.npz", inputs, outputs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [None, b"", b"text", pickle.dumps({"x": 1})], ids=["absent", "empty", "text", "pickle"]
)
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "golden.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BundleError, match=r"golden\.npz"):
        load_golden(file)


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    file = tmp_path / "golden.npz"
    save_golden(file, {"x": IMAGES}, {"y": ANSWERS})
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        load_golden(file)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "golden.npz"
    np.savez(file, allow_pickle=True, **{"input:x": np.array([{"a": 1}], dtype=object), "output:y": ANSWERS})
    with pytest.raises(BundleError, match="cannot be read"):
        load_golden(file)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "golden.npz"
    np.savez(file, images=IMAGES)
    with pytest.raises(BundleError, match="holds no inputs"):
        load_golden(file)
    np.savez(file, **{"input:x": np.float32(1), "output:y": ANSWERS})
    with pytest.raises(BundleError, match="equally many"):
        load_golden(file)
