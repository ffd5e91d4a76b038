"""The cache: whatever is on the disk, an answer is either what was stored or nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from ranksmith.errors import OutputError
from ranksmith.workflow.cache import Cache, key_of

ARRAYS = {"output|block0/conv1|gram": np.arange(12.0).reshape(3, 4), "images": np.asarray(3)}


def same(found: object) -> bool:
    return isinstance(found, dict) and all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def test_arrays_and_json_come_back_as_they_were(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "deep" / "cache")
    assert cache.arrays("a") is None
    assert cache.json("a") is None
    cache.put_arrays("a", ARRAYS)
    cache.put_json("a", {"16": [1.5, 2.0, 0.5]})
    again = Cache(tmp_path / "deep" / "cache")
    assert same(again.arrays("a"))
    assert again.json("a") == {"16": [1.5, 2.0, 0.5]}


def test_it_is_known_what_is_there_without_reading_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert not cache.has_arrays("a")
    cache.put_arrays("a", ARRAYS)
    cache.put_json("b", 1)
    (tmp_path / "cache" / "c.npz").mkdir()
    assert [cache.has_arrays(key) for key in "abc"] == [True, False, False]


def test_it_lies_in_the_users_cache_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSMITH_CACHE", str(tmp_path))
    Cache().put_json("a", 1)
    assert (tmp_path / "work" / "a.json").is_file()


def test_a_truncated_file_is_as_good_as_absent(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put_arrays("a", ARRAYS)
    whole = (tmp_path / "a.npz").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "a.npz").write_bytes(whole[:size])
        assert cache.arrays("a") is None
    cache.put_json("a", {"rank": [1, 2]})
    text = (tmp_path / "a.json").read_bytes()
    for size in range(len(text)):
        (tmp_path / "a.json").write_bytes(text[:size])
        assert cache.json("a") is None


def test_a_wrong_byte_never_gives_a_wrong_value(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put_arrays("a", ARRAYS)
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    for place in range(0, len(whole), 2):
        broken = whole.copy()
        broken[place] ^= 0x81
        (tmp_path / "a.npz").write_bytes(broken)
        for name, array in (cache.arrays("a") or {}).items():
            assert np.array_equal(array, ARRAYS[name]), place


@pytest.mark.parametrize("content", [b"not a zip", b"\x93NUMPY\x01\x00", b"\x80\x04N.", b"{}", b"\xff\xfe"])
def test_something_else_in_its_place_is_as_good_as_absent(tmp_path: Path, content: bytes) -> None:
    cache = Cache(tmp_path)
    (tmp_path / "a.npz").write_bytes(content)
    (tmp_path / "b.json").write_bytes(content.replace(b"{}", b"{"))
    assert cache.arrays("a") is None
    assert cache.json("b") is None


def test_an_array_in_place_of_an_archive_is_as_good_as_absent(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, np.arange(3))
    (tmp_path / "b.npz").mkdir()
    assert Cache(tmp_path).arrays("a") is None
    assert Cache(tmp_path).arrays("b") is None


def test_what_was_damaged_can_be_stored_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"half of it")
    cache.put_arrays("a", ARRAYS)
    assert same(cache.arrays("a"))


def test_a_write_that_fails_leaves_the_old_value_and_nothing_else(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put_json("a", "old")
    with pytest.raises(TypeError):
        cache.put_json("a", object())
    assert cache.json("a") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_reader_beside_a_writer_never_sees_half_a_value(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    values = [{"n": np.full(50_000, number)} for number in range(2)]
    cache.put_arrays("a", values[0])
    done = threading.Event()

    def write() -> None:
        for number in range(30):
            cache.put_arrays("a", values[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            found = cache.arrays("a")
            assert found is not None
            assert len(np.unique(found["n"])) == 1
    finally:
        writer.join()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        Cache(tmp_path / "file").put_json("a", 1)


def test_keys_differ_by_kind_and_by_every_ingredient() -> None:
    base = {"source": "abc", "needs": {"conv": ["output"]}, "batch": 1, "context": ((7, 7), ("Add", "Relu"))}
    keys = [
        key_of("statistics", **base),
        key_of("latency", **base),
        key_of("statistics", **base | {"source": "abd"}),
        key_of("statistics", **base | {"needs": {"conv": ["output", "input"]}}),
        key_of("statistics", **base | {"needs": {"conv2": ["output"]}}),
        key_of("statistics", **base | {"batch": 2}),
        key_of("statistics", **base | {"context": ((7, 7), ("Relu", "Add"))}),
        key_of("statistics", **base | {"more": None}),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of("statistics", **dict(reversed(base.items()))) == keys[0]
    assert key_of("statistics", kind="latency") != key_of("statistics", kind="statistics")
    assert all(key.replace("-", "").isalnum() for key in keys)
