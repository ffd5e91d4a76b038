"""`manifest.json`: what a bundle says about itself, read with every mistake named by its field.

`write` completes the manifest with the size and SHA-256 of every other file of the bundle, so that
`ranksmith.bundle.verify` can tell a bundle that was damaged or changed. The report is left out: it is
derived from the manifest and may be rebuilt.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ranksmith.errors import BundleError
from ranksmith.files import atomic_file, sha256_of
from ranksmith.results import FileInfo, Manifest, from_json, to_json

__all__ = ["MANIFEST", "read", "write"]

MANIFEST = "manifest.json"
_FAMILY = "ranksmith.bundle/"
_SCHEMA = "ranksmith.bundle/1"
_DERIVED = {MANIFEST, "report.html", "report"}


class _Schema(msgspec.Struct):
    schema: str = ""


def read(path: Path) -> Manifest:
    """The manifest of a bundle.

    Args:
        path: the bundle's directory, or its `manifest.json`.

    Raises:
        BundleError: there is none, or it is not a manifest that this version can read.
    """
    file = path / MANIFEST if path.is_dir() else path
    try:
        text = file.read_bytes()
    except FileNotFoundError as error:
        if path.is_dir():
            raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}", hint=_HOW_TO_MAKE) from error
        raise BundleError(f"{path}: no such bundle", hint=_HOW_TO_MAKE) from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    return _parse(text, file)


_HOW_TO_MAKE = "`ranksmith compress MODEL --data DATA -o BUNDLE` writes one"


def _parse(text: bytes, file: Path) -> Manifest:
    try:
        schema = from_json(text, _Schema).schema
        if schema != _SCHEMA:
            raise _wrong_schema(schema, file)
        return from_json(text, Manifest)
    # A ValidationError is a DecodeError: the first says which field, the second that it is not JSON at all.
    except msgspec.ValidationError as error:
        raise BundleError(f"{file}: {error}", hint="build the bundle again, or restore the file") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{file} is not valid JSON: {error}", hint="build the bundle again") from error


def _wrong_schema(schema: str, file: Path) -> BundleError:
    if schema.startswith(_FAMILY):
        return BundleError(
            f"{file} has schema {schema!r}, and this version of ranksmith reads {_SCHEMA!r}",
            hint="use the version of ranksmith that wrote it, or build the bundle again",
        )
    return BundleError(f"{file} is not the manifest of a bundle: its schema is {schema or 'missing'!r}")


def write(manifest: Manifest, directory: Path) -> Manifest:
    """Write `manifest.json` into `directory`, completed with the hashes of the files beside it.

    Returns:
        The manifest as it was written.

    Raises:
        BundleError: a number in it is NaN or infinite where one is needed, so it could not be read back.
        OutputError: the disk is full.
    """
    complete = msgspec.structs.replace(manifest, files=_others(directory, manifest.model.name))
    text = to_json(complete) + "\n"
    file = directory / MANIFEST
    _parse(text.encode(), file)
    with atomic_file(file, overwrite=True) as partial:
        partial.write_text(text, encoding="utf-8")
    return complete


def _others(directory: Path, model_name: str) -> list[FileInfo]:
    """Every file that is neither the model, described by the manifest itself, nor derived from the manifest."""
    found = []
    for file in sorted(directory.rglob("*")):
        name = file.relative_to(directory)
        if file.is_file() and name.parts[0] not in _DERIVED and name.as_posix() != model_name:
            found.append(FileInfo(name=name.as_posix(), sha256=sha256_of(file), bytes=file.stat().st_size))
    return found
