"""Is a bundle what its manifest says? Presence, size and SHA-256 of every file it names.

A bundle is copied between machines and served: a name that leads out of its directory, a symbolic link
or anything else that is not a plain file is refused before a byte is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from ranksmith.bundle.manifest import read
from ranksmith.errors import BundleError
from ranksmith.files import sha256_of
from ranksmith.results import Manifest

__all__ = ["verify_files"]

_AGAIN = "copy the bundle again from where it was built, or build it again"


def verify_files(bundle: Path) -> Manifest:
    """Check every file of the bundle in the directory `bundle` against its manifest, and return that.

    The size of the model counts its external data, as in the manifest.

    Raises:
        BundleError: a file is missing, changed, or not a plain file within the directory.
    """
    _refuse_links(bundle)
    manifest = read(bundle)
    model = _plain_file(bundle, manifest.model.name)
    parts = [model, *(file for file in model.parent.iterdir() if file.name.startswith(f"{model.name}."))]
    _check(model, manifest.model.sha256, manifest.model.bytes, sum(part.stat().st_size for part in parts))
    for info in manifest.files:
        file = _plain_file(bundle, info.name)
        _check(file, info.sha256, info.bytes, file.stat().st_size)
    return manifest


def _refuse_links(bundle: Path) -> None:
    for folder, directories, files in os.walk(bundle, followlinks=False):
        for name in (*directories, *files):
            path = Path(folder, name)
            if path.is_symlink():
                raise BundleError(f"{path} is a symbolic link, which a bundle must not hold", hint=_AGAIN)


def _plain_file(bundle: Path, name: str) -> Path:
    relative = PurePosixPath(name)
    if relative.is_absolute() or not relative.parts or ".." in relative.parts or "\\" in name or "\0" in name:
        raise BundleError(f"{bundle}: the manifest names {name!r}, which is not a file inside the bundle")
    path = bundle.joinpath(*relative.parts)
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise BundleError(f"{path} is missing; the bundle is incomplete", hint=_AGAIN) from error
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path} is not a plain file", hint=_AGAIN)
    return path


def _check(path: Path, sha256: str, expected_bytes: int, actual_bytes: int) -> None:
    if actual_bytes != expected_bytes:
        raise BundleError(f"{path} has {actual_bytes} bytes instead of {expected_bytes}", hint=_AGAIN)
    if sha256_of(path) != sha256:
        raise BundleError(f"{path} was changed: its sha256 is not the manifest's", hint=_AGAIN)
