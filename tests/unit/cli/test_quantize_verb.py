"""quantize, from the command line to the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ranksmith.cli.app import run as ranksmith
from tests.models import GraphBuilder, mlp, node_types, residual_classifier, save
from tests.unit.workflow.scene import pictures

SIDE = 16


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, images and preprocessing."""
    save(residual_classifier(), tmp_path / "net.onnx")
    np.savez(tmp_path / "images.npz", images=pictures(12, side=SIDE), labels=np.arange(12) % 10)
    (tmp_path / "small.toml").write_text("size = 16\nmean = [127.5, 127.5, 127.5]\nstd = [64.0, 64.0, 64.0]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WITH_IMAGES = ["--data", "images.npz", "--preprocess", "small.toml", "--threads", "1"]


def printed_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_result_is_written_and_described(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranksmith(["quantize", "net.onnx", *WITH_IMAGES, "-o", "int8.onnx", "-q", "--keep", "stem"]) == 0
    shown = capsys.readouterr().out
    for text in ("minmax", "percentile-99.99", "entropy", "stem", "Conv: asked for", "5 Conv", "written to int8.onnx"):
        assert text in shown
    assert "QuantizeLinear" in node_types(onnx.load(desk / "int8.onnx"))


@pytest.mark.parametrize(
    ("method", "tried"),
    [
        ("auto", {"minmax", "percentile-99.999", "percentile-99.99", "entropy"}),
        ("percentile", {"percentile-99.999", "percentile-99.99"}),
        ("entropy", {"entropy"}),
        ("percentile-99.99", {"percentile-99.99"}),
    ],
)
def test_methods_are_chosen_by_name(
    desk: Path, capsys: pytest.CaptureFixture[str], method: str, tried: set[str]
) -> None:
    command = ["quantize", "net.onnx", *WITH_IMAGES, "-o", "int8.onnx", "--method", method, "--json"]
    assert ranksmith([*command, "--calibration", "6"]) == 0
    found = printed_json(capsys)
    assert found["schema"] == "ranksmith.quantize/1"
    assert {entry["method"] for entry in found["methods"]} == tried
    assert found["method"] in tried
    assert found["calibration"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        (["net.onnx", *WITH_IMAGES, "--keep", "block1/conv22"], 2, ["'block1/conv22'", "block1/conv2"]),
        (["net.onnx", *WITH_IMAGES, "--method", "best"], 2, ["--method 'best'", "minmax"]),
        (["net.onnx"], 2, ["no images to work on", "--data"]),
        (["pool.onnx", *WITH_IMAGES], 1, ["nothing to quantize", "no Conv, Gemm or MatMul"]),
        (["mlp.onnx", *WITH_IMAGES], 1, ["mlp.onnx"]),
        (["net.onnx", *WITH_IMAGES, "-o", "small.toml"], 1, ["small.toml"]),
    ],
)
def test_what_goes_wrong_is_told_in_one_line_and_nothing_is_written(
    desk: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, texts: list[str]
) -> None:
    save(mlp(), desk / "mlp.onnx")
    build = GraphBuilder()
    pooled = build.node("GlobalAveragePool", [build.input("x", ["N", 3, SIDE, SIDE])], "pooled")
    build.output(build.node("Flatten", [pooled], "y"), ["N", 3])
    save(build.model(), desk / "pool.onnx")
    before = {path.name for path in desk.iterdir()}
    assert ranksmith(["quantize", *arguments, *([] if "-o" in arguments else ["-o", "int8.onnx"]), "-q"]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert len([line for line in told.err.splitlines() if line.startswith("error:")]) == 1
    for text in texts:
        assert text in told.err
    assert {path.name for path in desk.iterdir()} == before
