"""`ranksmith compress` from the command line to the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from ranksmith.bundle.verify import verify_files
from ranksmith.cli.app import run as command
from ranksmith.data.npz import ArrayDataset
from ranksmith.results import Manifest, from_json
from tests.integration.compress.desk import LABELS
from tests.models import save
from tests.unit.workflow.scene import (
    HW,
    Arithmetic,
    Machine,
)


class TestCommand:
    """`ranksmith compress` from the command line to the file."""

    @pytest.fixture
    def arguments(self, tmp_path: Path, small: onnx.ModelProto, small_data: ArrayDataset, brief: None) -> list[str]:
        save(small, tmp_path / "model.onnx")
        assert small_data.labels is not None
        np.savez(tmp_path / "images.npz", images=small_data.images, labels=small_data.labels)
        (tmp_path / "small.toml").write_text(f"size = {HW}\nmean = [127.5, 127.5, 127.5]\nstd = [64, 64, 64]\n")
        (tmp_path / "labels.txt").write_text("\n".join(LABELS))
        return [
            "compress", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "images.npz"), "--labels",
            str(tmp_path / "labels.txt"), "--preprocess", str(tmp_path / "small.toml"), "-o", str(tmp_path / "bundle"),
            "--calibration", "40", "--max-drop", "5", "--threads", "1", "--seed", "3", "--kinds", "output-pca",
        ]  # fmt: skip

    def test_json_is_the_manifest_and_nothing_else(
        self, tmp_path: Path, arguments: list[str], bare: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command([*arguments, "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == json.loads((tmp_path / "bundle" / "manifest.json").read_text())
        manifest = from_json(printed.out, Manifest)
        assert (manifest.seed, manifest.threads, manifest.max_drop_pp) == (3, 1, 5.0)
        assert manifest.labels == LABELS
        assert manifest.preprocess.name == "small"
        assert printed.err

    def test_plain_output_says_what_was_gained_what_it_cost_and_where_it_is(
        self, tmp_path: Path, arguments: list[str], bare: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command([*arguments, "--quiet"]) == 0
        out = capsys.readouterr().out
        assert "faster" in out
        assert "held-out images" in out
        assert str(tmp_path / "bundle" / "model.onnx") in out
        assert str(tmp_path / "bundle" / "report.html") in out
        assert "in int8" in out
        manifest = verify_files(tmp_path / "bundle")
        assert ("not made faster" in out) == (manifest.verdict == "kept-original")
        # The bundle is a model for every other verb.
        assert command(["inspect", str(tmp_path / "bundle"), "--json"]) == 0

    def test_a_faster_result_is_told_with_its_intervals(
        self,
        arguments: list[str],
        bare: None,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        Machine(ratios={1: 1.3, 8: 1.6}).use(monkeypatch)
        assert command([*arguments, "--objective", "macs"]) == 0
        out = capsys.readouterr().out
        assert "1.30x faster at batch 1" in out
        assert "1.60x faster at batch 8" in out
        assert out.count("95 % interval") == 3
        assert "Convs decomposed" in out

    def test_a_layers_story_is_told_at_the_end(
        self,
        tmp_path: Path,
        arguments: list[str],
        bare: None,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        Arithmetic().use(monkeypatch)
        options = ["--precision", "fp32", "--confidence", "0.7", "--explain", "block1/conv2"]
        assert command([*arguments, *options, "--max-drop", "10", "--quiet"]) == 0
        out = capsys.readouterr().out
        story = out.partition("report.html\n")[2]
        assert story.strip().startswith("block1/conv2")
        assert "decision" in story
        assert "output-pca" in story
        assert "spatial" not in story
        manifest = verify_files(tmp_path / "bundle")
        assert (manifest.asked_precision, manifest.precision, manifest.max_drop_pp) == ("fp32", "fp32", 10.0)
        # The bundle tells the same afterwards.
        assert command(["report", str(tmp_path / "bundle"), "--explain", "block1/conv2"]) == 0
        assert capsys.readouterr().out.strip() == story.strip()

    def test_a_story_of_a_conv_that_is_not_there_is_refused(
        self,
        tmp_path: Path,
        arguments: list[str],
        bare: None,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        Machine().use(monkeypatch)
        assert command([*arguments, "--precision", "fp32", "--explain", "block1/conv22", "--quiet"]) == 2
        assert "nearest: block1/conv2" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--precision", "int4"), ("--kinds", "output-pca,fft"), ("--kinds", ""), ("--confidence", "1.5")],
    )
    def test_an_option_that_means_nothing_is_refused(
        self, tmp_path: Path, arguments: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command([*arguments, option, value]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("error: ") == 1
        assert not (tmp_path / "bundle").exists()

    def test_the_library_is_quiet_about_a_missing_model(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command(["compress", str(tmp_path / "none.onnx"), "-o", str(tmp_path / "bundle")]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert list(tmp_path.iterdir()) == []
