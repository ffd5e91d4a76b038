"""Splits depend on content and seed, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ranksmith.data.dataset import open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.data.split import sample, split
from ranksmith.errors import DataError


def _dataset(values: list[int]) -> ArrayDataset:
    images = np.stack([np.full((2, 2, 3), value, np.uint8) for value in values])
    return ArrayDataset("numbers", images, np.asarray(values, np.int64))


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(24)), seed=st.integers(0, 5), calibration=st.integers(1, 40))
def test_the_order_of_files_does_not_matter(order: list[int], seed: int, calibration: int) -> None:
    first = split(_dataset(list(range(24))), calibration=calibration, seed=seed)
    second = split(_dataset(order), calibration=calibration, seed=seed)
    assert first.calibration_sha256 == second.calibration_sha256
    for part in ("calibration", "selection", "holdout"):
        assert {order[index] for index in getattr(second, part)} == set(getattr(first, part).tolist())


@settings(max_examples=25, deadline=None)
@given(count=st.integers(3, 60), calibration=st.integers(1, 80), seed=st.integers(0, 3))
def test_the_parts_are_disjoint_and_none_is_empty(count: int, calibration: int, seed: int) -> None:
    found = split(_dataset(list(range(count))), calibration=calibration, seed=seed)
    parts = [found.calibration.tolist(), found.selection.tolist(), found.holdout.tolist()]
    assert all(parts)
    assert sorted(parts[0] + parts[1] + parts[2]) == list(range(count))
    assert len(parts[0]) == min(calibration, count // 2)
    # Of two images that are left one goes to each part.
    assert len(parts[1]) == max(1, (len(parts[1]) + len(parts[2])) // 4)


def test_another_seed_gives_another_split() -> None:
    dataset = _dataset(list(range(50)))
    splits = [split(dataset, calibration=20, seed=seed) for seed in (0, 1)]
    assert splits[0].calibration_sha256 != splits[1].calibration_sha256


def test_duplicates_are_left_out_and_told() -> None:
    found = split(_dataset([1, 2, 3, 4, 1, 2]), calibration=2, seed=0)
    assert len(found.calibration) + len(found.selection) + len(found.holdout) == 4
    assert any("2 duplicate" in warning for warning in found.warnings)


def test_few_images_are_warned_about() -> None:
    found = split(_dataset(list(range(10))), calibration=400, seed=0)
    assert any("calibrating on 5 images" in warning for warning in found.warnings)
    assert any("judged on 4 images" in warning for warning in found.warnings)


def test_enough_images_give_no_warning() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 2, 2, 3), dtype=np.uint8)
    assert split(ArrayDataset("many", images), calibration=50, seed=0).warnings == []


@pytest.mark.parametrize(("count", "calibration"), [(1, 0), (2, 5), (2, 1)])
def test_too_few_images_are_an_error(count: int, calibration: int) -> None:
    with pytest.raises(DataError, match="too few") as caught:
        split(_dataset(list(range(count))), calibration=calibration, seed=0)
    assert caught.value.hint


def test_calibration_may_come_from_elsewhere() -> None:
    found = split(_dataset(list(range(9))), calibration=0, seed=0)
    assert len(found.calibration) == 0
    assert len(found.selection) + len(found.holdout) == 9


def test_a_set_of_its_own_to_calibrate_on_is_not_split() -> None:
    found = split(_dataset(list(range(9))), calibration=6, seed=0, calibration_only=True)
    assert (len(found.calibration), len(found.selection), len(found.holdout)) == (6, 0, 0)
    assert found.warnings == []


def test_an_unreadable_file_takes_no_part(tmp_path: Path) -> None:
    for value in range(6):
        Image.new("RGB", (2, 2), (value, 0, 0)).save(tmp_path / f"{value}.png")
    dataset = open_dataset(tmp_path)
    (tmp_path / "3.png").unlink()
    found = split(dataset, calibration=2, seed=0)
    assert 3 not in np.concatenate([found.calibration, found.selection, found.holdout])


def test_a_sample_is_seeded_sorted_and_without_repeats() -> None:
    chosen = sample(100, 10, 0)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert chosen.tolist() == sample(100, 10, 0).tolist() != sample(100, 10, 1).tolist()
    assert sample(3, None, 0).tolist() == sample(3, 5, 0).tolist() == [0, 1, 2]
