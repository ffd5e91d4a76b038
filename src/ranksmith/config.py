"""The only reader of the environment and of TOML.

`RANKSMITH_CACHE`     where downloads and measurements are kept (default: the user's cache directory)
`RANKSMITH_ZOO_URL`   where the Model Zoo's files are fetched from (default: its home on Hugging Face)
`RANKSMITH_CRASH_ON`  a number: a worker aborts on a request whose first element it is (for testing a server)
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec

from ranksmith.errors import DataError
from ranksmith.results import Preprocess

__all__ = ["ZOO_URL", "cache_dir", "crash_on", "read_preprocess", "zoo_url"]

# GitHub stopped serving the zoo's large files in 2025; this mirror by the zoo's own maintainers keeps its paths.
ZOO_URL = "https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main"


def cache_dir() -> Path:
    """The directory for downloads and cached measurements; it need not exist yet."""
    if chosen := os.environ.get("RANKSMITH_CACHE"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("ranksmith")


def zoo_url() -> str:
    """The Model Zoo's base URL, without a slash at the end."""
    return (os.environ.get("RANKSMITH_ZOO_URL") or ZOO_URL).rstrip("/")


def crash_on() -> float | None:
    """On what first element of a request a worker is to abort, so that recovery can be tried; None: on none."""
    text = os.environ.get("RANKSMITH_CRASH_ON")
    return float(text) if text else None


def read_preprocess(path: Path) -> Preprocess:
    """Read preprocessing from a TOML file whose keys are the fields of `Preprocess`.

    `size` may be one number (a square) or [height, width]; `name` defaults to the file's name.

    Raises:
        DataError: the file cannot be read, a key is unknown, missing or of the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: cannot be read as TOML: {error}") from error
    known = Preprocess.__struct_fields__
    if unknown := sorted(set(table) - set(known)):
        raise DataError(f"{path}: unknown key {unknown[0]!r}", hint=f"known keys: {', '.join(known)}")
    table.setdefault("name", path.stem)
    if isinstance(table.get("size"), int):
        table["size"] = [table["size"], table["size"]]
    try:
        preprocess = msgspec.convert(table, Preprocess)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path}: {error}", hint="for instance: size = [224, 224], mean = [123.675, 116.28, 103.53]"
        ) from error
    _check(preprocess, path)
    return preprocess


def _check(preprocess: Preprocess, path: Path) -> None:
    if min(preprocess.size) < 1:
        raise DataError(f"{path}: size must be at least 1 by 1 pixel")
    if preprocess.resize_shorter is not None and preprocess.resize_shorter < 1:
        raise DataError(f"{path}: resize_shorter must be at least 1 pixel")
    if min(preprocess.std) <= 0:
        raise DataError(f"{path}: std must be above 0", hint="mean and std are on the 0..255 scale")
