"""`report`, `spectrum` and `sweep`: what they write, what they tell, and how ranges of ranks are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.bundle.manifest import write
from ranksmith.cli.app import run
from ranksmith.cli.verb_sweep import parse_ranks
from ranksmith.errors import RankError
from ranksmith.results import Explanation, from_json
from tests.models import residual_classifier, save
from tests.unit.report import manifests
from tests.unit.report.mixed import mixed


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("8", [8]), ("3:5", [3, 4, 5]), ("16:64:16", [16, 32, 48, 64]), ("1:10:4", [1, 5, 9]), (" 2:2 ", [2])],
)
def test_a_range_of_ranks_ends_with_its_last(text: str, ranks: list[int]) -> None:
    assert parse_ranks(text) == ranks


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not a range"),
        ("a:b", "not a range"),
        ("1:2:3:4", "not a range"),
        ("-1:4", "not a range"),
        ("1.5:4", "not a range"),
        ("٣:٥", "not a range"),
        ("0:4", "at least 1, not 0"),
        ("8:4", "lies below the first"),
        ("1:8:0", "step"),
        ("1:99999999", "more than 100,000 ranks"),
    ],
)
def test_a_malformed_range_of_ranks_is_told(text: str, told: str) -> None:
    with pytest.raises(RankError, match=told):
        parse_ranks(text)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 40))
def test_every_rank_of_a_range_is_within_it(start: int, length: int, step: int) -> None:
    assert parse_ranks(f"{start}:{start + length}:{step}") == [*range(start, start + length + 1, step)]


def test_report_rebuilds_what_was_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write(manifests.tiny(), bundle)
    assert run(["report", str(bundle)]) == 0
    assert capsys.readouterr().out.strip() == str(bundle / "report.html")
    first = (bundle / "report.html").read_bytes()
    (bundle / "report.html").write_text("spoilt")
    assert run(["report", str(bundle), "--quiet"]) == 0
    assert (bundle / "report.html").read_bytes() == first
    assert (bundle / "report" / "frontier.svg").is_file()


def test_report_explains_one_conv_and_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = mixed()
    write(manifest, tmp_path)
    node = manifest.layers[2].node
    assert run(["report", str(tmp_path), "--explain", node]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{node}\n")
    assert "Considered, fastest first (8):" in told
    assert run(["report", str(tmp_path), "--explain", node, "--json"]) == 0
    explained = from_json(capsys.readouterr().out, Explanation)
    assert explained.schema == "ranksmith.explanation/1"
    assert explained.layer == manifest.layers[2]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_report_cannot_explain_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(mixed(), tmp_path)
    assert run(["report", str(tmp_path), "--explain", "res2a_branch2z"]) == 2
    told = capsys.readouterr().err
    assert "no Conv named 'res2a_branch2z'" in told
    assert "nearest: res2a_branch2" in told
    assert run(["report", str(tmp_path), "--json"]) == 2
    assert "--json goes with --explain" in capsys.readouterr().err


def test_report_of_what_is_not_a_bundle_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(tmp_path)]) == 1
    assert "is not a bundle: it has no manifest.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "manifest.json").write_text("{}")
    assert run(["report", str(tmp_path / "manifest.json")]) == 1
    assert "hint: give the directory" in capsys.readouterr().err


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save(residual_classifier(hw=(16, 16)), tmp_path / "model.onnx")
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8))
    (tmp_path / "small.toml").write_text("size = 16\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WITH_IMAGES = ["--data", "images.npz", "--preprocess", "small.toml", "--threads", "1", "-o", "out"]


def test_spectrum_writes_a_figure_and_its_numbers(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["spectrum", "model.onnx", *WITH_IMAGES]) == 0
    printed = capsys.readouterr().out
    assert "block1/conv2" in printed
    assert "█" in printed
    assert {path.name for path in (desk / "out").iterdir()} == {"spectrum.svg", "spectrum.csv", "spectrum.json"}
    document = json.loads((desk / "out" / "spectrum.json").read_text())
    assert document["images"] == 6
    assert "block1/conv2" in {spectrum["node"] for spectrum in document["spectra"]}


def test_sweep_writes_a_figure_and_its_numbers(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sweep", "model.onnx", "--node", "block1/conv2", *WITH_IMAGES]
    assert run([*arguments, "--ranks", "1:32"]) == 0
    printed = capsys.readouterr().out
    assert "best rank among those cheaper than the Conv: " in printed
    assert {path.name for path in (desk / "out").iterdir()} == {"sweep.svg", "sweep.csv", "sweep.json"}
    assert len((desk / "out" / "sweep.csv").read_text().splitlines()) == 33
    assert run([*arguments, "--ranks", "32", "--overwrite"]) == 0
    assert "none of these ranks makes the layer cheaper" in capsys.readouterr().out


def test_sweep_by_an_unknown_kind_names_the_kinds(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", "model.onnx", "--node", "block1/conv2", "--ranks", "1:4", "--kind", "cp", *WITH_IMAGES]) == 2
    told = capsys.readouterr().err
    assert "no kind 'cp'" in told
    assert "output-pca" in told
    assert not (desk / "out").exists()
