"""Work that outlives an interruption: arrays and JSON keyed by a hash of everything they depend on.

A key is built from the ingredients of a computation (hashes of the model and the images, parameters,
the version of the format), so nothing is ever invalidated: a changed ingredient is another key.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith import config
from ranksmith.files import atomic_file

__all__ = ["Cache", "calibrated_key", "key_of"]

# Raised when the meaning of what is stored changes.
_FORMAT = 6
# What NumPy and zipfile raise, depending on which byte of an archive is wrong.
_DAMAGED = (ValueError, EOFError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


def key_of(kind: str, /, **ingredients: object) -> str:
    """A file name's stem: `kind` and the SHA-256 of the ingredients as canonical JSON."""
    canonical = json.dumps([_FORMAT, kind, ingredients], sort_keys=True, default=str)
    return f"{kind}-{hashlib.sha256(canonical.encode()).hexdigest()[:32]}"


def calibrated_key(
    kind: str, /, source_sha256: str, calibration_sha256: str, preprocess: object, **more: object
) -> str:
    """`key_of` something about a model that was found out on calibration images."""
    return key_of(kind, source=source_sha256, calibration=calibration_sha256, preprocess=str(preprocess), **more)


class Cache:
    """A directory of results. A file that cannot be read is as good as absent: it is computed again."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory if directory is not None else config.cache_dir() / "work"

    def arrays(self, key: str) -> dict[str, NDArray[Any]] | None:
        path = self.directory / f"{key}.npz"
        try:
            # The stream is ours to close: np.load leaves a broken archive open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                return dict(stored)
        except (OSError, *_DAMAGED):
            return None

    def has_arrays(self, key: str) -> bool:
        """Whether there is such a file; it may still be damaged."""
        return (self.directory / f"{key}.npz").is_file()

    def put_arrays(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        with atomic_file(self.directory / f"{key}.npz", overwrite=True) as partial, partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)

    def json(self, key: str) -> Any | None:
        try:
            return json.loads((self.directory / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def put_json(self, key: str, value: Any) -> None:
        with atomic_file(self.directory / f"{key}.json", overwrite=True) as partial:
            partial.write_text(json.dumps(value), encoding="utf-8")
