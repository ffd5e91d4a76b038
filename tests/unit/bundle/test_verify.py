"""Verifying a bundle: any change to any file it names is found, and nothing outside it is ever read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import pytest

from ranksmith.bundle.manifest import write
from ranksmith.bundle.verify import verify_files
from ranksmith.errors import BundleError
from ranksmith.results import FileInfo
from tests.unit.report import manifests


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "frontier").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "model.onnx.data").write_bytes(b"weights")
    (folder / "golden.npz").write_bytes(b"golden")
    (folder / "frontier" / "plan.json").write_text("{}")
    model = FileInfo(name="model.onnx", sha256=hashlib.sha256(b"model").hexdigest(), bytes=12)
    write(msgspec.structs.replace(manifests.tiny(), model=model), folder)
    return folder


def refused(bundle: Path, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        verify_files(bundle)


def test_an_untouched_bundle_passes_wherever_it_is_copied(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "copy" / "report.html").write_text("a report that was rebuilt")
    (tmp_path / "copy" / "notes.txt").write_text("a note of the user's")
    assert verify_files(tmp_path / "copy").model.name == "model.onnx"


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "golden.npz", "frontier/plan.json"])
def test_a_missing_longer_or_changed_file_is_named(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1] + b"?")
    refused(bundle, f"{name} was changed")
    (bundle / name).write_bytes(content + b"?")
    refused(bundle, "bytes instead of")
    (bundle / name).unlink()
    refused(bundle, "is missing|bytes instead of")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "", ".", "frontier/../../secret", "a\\b", "a\0b"])
def test_a_name_that_leads_out_of_the_bundle_is_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "secret").write_bytes(b"golden")
    document = json.loads((bundle / "manifest.json").read_text())
    document["files"][0]["name"] = name
    (bundle / "manifest.json").write_text(json.dumps(document))
    refused(bundle, "not a file inside the bundle")
    document["model"]["name"] = name
    (bundle / "manifest.json").write_text(json.dumps(document))
    refused(bundle, "not a file inside the bundle")


def test_symbolic_links_are_refused(bundle: Path) -> None:
    (bundle / "golden.npz").rename(bundle.parent / "golden.npz")
    (bundle / "golden.npz").symlink_to(bundle.parent / "golden.npz")
    refused(bundle, r"golden\.npz is a symbolic link")


def test_a_linked_directory_is_refused(bundle: Path) -> None:
    (bundle / "frontier").rename(bundle.parent / "elsewhere")
    (bundle / "frontier").symlink_to(bundle.parent / "elsewhere")
    refused(bundle, "frontier is a symbolic link")


def test_a_directory_in_the_place_of_a_file_is_refused(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()
    (bundle / "golden.npz").mkdir()
    refused(bundle, r"golden\.npz is not a plain file")
