"""Reading and writing `manifest.json`: what is wrong is told by its file and field."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ranksmith.bundle.manifest import read, write
from ranksmith.errors import BundleError
from tests.unit.report import manifests


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A directory with a manifest and some files beside it."""
    folder = tmp_path / "bundle"
    (folder / "frontier").mkdir(parents=True)
    (folder / "report").mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "golden.npz").write_bytes(b"golden")
    (folder / "frontier" / "plan.json").write_text("{}")
    (folder / "report" / "layers.svg").write_text("<svg/>")
    (folder / "report.html").write_text("<p>")
    write(manifests.tiny(), folder)
    return folder


def change(bundle: Path, **fields: Any) -> None:
    file = bundle / "manifest.json"
    document = json.loads(file.read_text())
    document.update(fields)
    file.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))


def test_what_was_written_is_what_is_read(bundle: Path) -> None:
    manifest = read(bundle)
    assert msgspec.structs.replace(manifest, files=[]) == manifests.tiny()
    assert read(bundle / "manifest.json") == manifest
    assert write(manifest, bundle) == manifest


def test_every_file_that_is_not_derived_is_recorded_with_its_size(bundle: Path) -> None:
    assert {info.name: info.bytes for info in read(bundle).files} == {"frontier/plan.json": 2, "golden.npz": 6}


def test_a_full_manifest_survives_the_round_trip(tmp_path: Path) -> None:
    write(manifests.faster(), tmp_path)
    assert read(tmp_path) == manifests.faster()


@pytest.mark.parametrize("name", ["", "absent"])
def test_a_directory_without_a_manifest_is_not_a_bundle(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="bundle") as caught:
        read(tmp_path / name)
    assert caught.value.hint is not None
    assert "compress" in caught.value.hint


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"schema": "\xff"}', b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"]
)
def test_what_is_not_json_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"accuracy": ...}, "missing required field `accuracy`"),
        ({"threads": "two"}, r"\$\.threads"),
        ({"layers": [{"node": 3}]}, r"\$\.layers\[0\]"),
        ({"verdict": "slower"}, r"\$\.verdict"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(bundle: Path, fields: dict[str, Any], told: str) -> None:
    change(bundle, **fields)
    with pytest.raises(BundleError, match=told):
        read(bundle)


def test_another_version_of_the_schema_is_told_apart_from_another_file(bundle: Path) -> None:
    change(bundle, schema="ranksmith.bundle/2")
    with pytest.raises(BundleError, match=r"has schema 'ranksmith\.bundle/2'") as caught:
        read(bundle)
    assert "version of ranksmith" in str(caught.value.hint)
    change(bundle, schema="ranksmith.plan/1")
    with pytest.raises(BundleError, match=r"not the manifest of a bundle: its schema is 'ranksmith\.plan/1'"):
        read(bundle)
    change(bundle, schema=...)
    with pytest.raises(BundleError, match="missing"):
        read(bundle)


def test_a_manifest_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    manifest = manifests.tiny()
    broken = msgspec.structs.replace(manifest, accuracy=msgspec.structs.replace(manifest.accuracy, kl=math.nan))
    with pytest.raises(BundleError, match=r"\$\.accuracy\.kl"):
        write(broken, tmp_path)
    assert not list(tmp_path.iterdir())
