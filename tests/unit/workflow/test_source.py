"""What MODEL may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranksmith.bundle import manifest as manifests
from ranksmith.data.preprocess import PRESETS
from ranksmith.errors import BundleError, ModelError
from ranksmith.workflow.source import resolve
from tests.models import classifier, save
from tests.unit.report.manifests import tiny


def test_a_path_is_a_model_of_that_name(tmp_path: Path) -> None:
    path = save(classifier(), tmp_path / "mine.v2.onnx")
    source = resolve(str(path))
    assert source.path == path
    assert source.name == "mine.v2"
    assert (source.preprocess, source.labels, source.data, source.calibration_data) == (None, None, None, None)


def test_a_bundle_brings_its_preprocessing_and_labels(tmp_path: Path) -> None:
    bundle = tmp_path / "fast"
    bundle.mkdir()
    save(classifier(), bundle / "model.onnx")
    manifest = tiny()
    manifests.write(manifest, bundle)
    source = resolve(str(bundle))
    assert source.path == bundle / "model.onnx"
    assert source.name == "fast"
    assert source.preprocess == manifest.preprocess
    assert source.labels == manifest.labels


def test_a_directory_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        resolve(str(tmp_path))


def test_the_demo_comes_with_everything() -> None:
    source = resolve("demo")
    assert source.path.is_file()
    assert source.preprocess == PRESETS["cifar10"]
    assert source.labels is not None
    assert len(source.labels) == 10
    assert source.data is not None
    assert source.data.is_file()
    assert source.calibration_data is not None
    assert source.calibration_data.is_file()


def test_a_file_called_demo_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(classifier(), tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert resolve("demo").path.resolve() == tmp_path / "demo"


def test_a_name_that_is_nothing_is_told_with_what_it_may_be(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'resnet51'.*file.*bundle.*demo.*zoo") as caught:
        resolve("resnet51")
    assert caught.value.hint is not None
    assert "fetch --list" in caught.value.hint
