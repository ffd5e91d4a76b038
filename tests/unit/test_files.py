from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from ranksmith.errors import OutputError
from ranksmith.files import atomic_directory, atomic_file, check_output, sha256_of

INTERRUPTIONS = [
    (ValueError("boom"), ValueError),
    (KeyboardInterrupt(), KeyboardInterrupt),
    (OSError(errno.ENOSPC, "No space left on device"), OutputError),
    (OSError(errno.EDQUOT, "Quota exceeded"), OutputError),
    (PermissionError(errno.EACCES, "Permission denied"), OutputError),
    (OSError(errno.EIO, "Input/output error"), OSError),
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_complete_and_readable_by_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    before = os.umask(0o022)
    try:
        with atomic_file(target) as partial:
            partial.write_text("whole")
            assert partial.parent == target.parent
            assert not target.exists()
    finally:
        os.umask(before)
    assert target.read_text() == "whole"
    assert target.stat().st_mode & 0o777 == 0o644
    assert names(target.parent) == ["a.txt"]


def test_a_directory_appears_complete_and_readable_by_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "bundle"
    before = os.umask(0o022)
    try:
        with atomic_directory(target) as partial:
            (partial / "a.txt").write_text("whole")
            assert not target.exists()
    finally:
        os.umask(before)
    assert (target / "a.txt").read_text() == "whole"
    assert target.stat().st_mode & 0o777 == 0o755
    assert names(target.parent) == ["bundle"]


@pytest.mark.parametrize(("error", "seen"), INTERRUPTIONS)
@pytest.mark.parametrize("existing", [False, True])
def test_a_file_that_fails_midway_leaves_what_was_there(
    tmp_path: Path, error: BaseException, seen: type[BaseException], existing: bool
) -> None:
    target = tmp_path / "a.txt"
    if existing:
        target.write_text("before")
    with pytest.raises(seen), atomic_file(target, overwrite=existing) as partial:
        partial.write_text("half")
        raise error
    assert names(tmp_path) == (["a.txt"] if existing else [])
    assert not existing or target.read_text() == "before"


@pytest.mark.parametrize(("error", "seen"), INTERRUPTIONS)
@pytest.mark.parametrize("existing", [False, True])
def test_a_directory_that_fails_midway_leaves_what_was_there(
    tmp_path: Path, error: BaseException, seen: type[BaseException], existing: bool
) -> None:
    target = tmp_path / "bundle"
    if existing:
        target.mkdir()
        (target / "a.txt").write_text("before")
    with pytest.raises(seen), atomic_directory(target, overwrite=existing) as partial:
        (partial / "b.txt").write_text("half")
        raise error
    assert names(tmp_path) == (["bundle"] if existing else [])
    assert not existing or names(target) == ["a.txt"]


def test_a_directory_whose_last_move_fails_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "a.txt").write_text("before")
    replace = os.replace

    def fail_into_place(source: Path, destination: Path) -> None:
        if destination == target and source.suffix == ".part":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fail_into_place)
    with pytest.raises(OutputError, match="the disk is full"), atomic_directory(target, overwrite=True):
        pass
    assert names(tmp_path) == ["bundle"]
    assert names(target) == ["a.txt"]


def test_a_full_disk_is_told_with_the_output_and_a_hint(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.txt: the disk is full") as failure, atomic_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert failure.value.hint == "free some space and run again"


def test_overwriting_replaces_files_and_whole_directories(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before")
    with atomic_file(tmp_path / "a.txt", overwrite=True) as partial:
        partial.write_text("after")
    assert (tmp_path / "a.txt").read_text() == "after"
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old.txt").write_text("before")
    with atomic_directory(tmp_path / "bundle", overwrite=True) as partial:
        (partial / "new.txt").write_text("after")
    assert names(tmp_path / "bundle") == ["new.txt"]
    assert names(tmp_path) == ["a.txt", "bundle"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before")
    for refused in (atomic_file, atomic_directory):
        with pytest.raises(OutputError, match="exists") as failure, refused(tmp_path / "a.txt"):
            pytest.fail("the body must not run")
        assert failure.value.hint is not None
        assert "--overwrite" in failure.value.hint


def test_a_file_never_replaces_a_directory_nor_a_directory_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="it is a directory"), atomic_file(tmp_path / "folder", overwrite=True):
        pytest.fail("the body must not run")
    with pytest.raises(OutputError, match="it is a file"), atomic_directory(tmp_path / "file", overwrite=True):
        pytest.fail("the body must not run")


def test_a_place_below_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a writable directory"):
        check_output(tmp_path / "file" / "out" / "a.onnx", overwrite=False)


def test_a_relative_output_is_checked_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output(Path("out/a.onnx"), overwrite=False)
    with atomic_file(Path("a.txt")) as partial:
        partial.write_text("whole")
    assert names(tmp_path) == ["a.txt"]


def test_the_checksum_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()
