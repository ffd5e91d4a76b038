"""Writing files and directories atomically: beside their place, then moved in.

Whatever goes wrong on the way (an exception, Ctrl-C, a full disk), the destination is either what it
was before or complete, and no partial file is left behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ranksmith.errors import OutputError

__all__ = ["atomic_directory", "atomic_file", "check_output", "sha256_of"]


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` now, before hours of work, if `path` could not be written later."""
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists", hint="choose another output or pass --overwrite")
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"cannot write {path}: {parent} is not a writable directory")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"cannot write {path}: the disk is full", hint="free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        raise


@contextmanager
def atomic_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the destination's directory; move it to `path` on success.

    Raises:
        OutputError: `path` exists and `overwrite` is false, or it cannot be written.
    """
    check_output(path, overwrite=overwrite)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    with _translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(descriptor)
        partial = Path(name)
        try:
            yield partial
            # mkstemp makes 0600; a result is as readable as any other new file.
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; move it to `path` on success.

    With `overwrite`, an existing directory is replaced only once the new one is complete.

    Raises:
        OutputError: `path` exists and `overwrite` is false, or it cannot be written.
    """
    check_output(path, overwrite=overwrite)
    if path.exists() and not path.is_dir():
        raise OutputError(f"cannot write {path}: it is a file, and a directory is to be written")
    with _translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        retired = partial.with_suffix(".old")
        try:
            yield partial
            partial.chmod(0o777 & ~_umask())
            if path.exists():
                path.replace(retired)
            partial.replace(path)
        except BaseException:
            if retired.exists() and not path.exists():
                retired.replace(path)
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(retired, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
