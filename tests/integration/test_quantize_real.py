"""quantize on models that were trained: the demo, and ResNet-20 where the real models are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from ranksmith.cli.app import run as ranksmith


def printed_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_demo_keeps_its_accuracy_in_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo-int8.onnx"
    assert ranksmith(["quantize", "demo", "-o", str(out), "--json"]) == 0
    found = printed_json(capsys)
    assert found["methods"][0]["kl"] < 0.005
    assert found["bytes_after"] * 3 < found["bytes_before"]
    assert found["kept"] == []
    assert ranksmith(["compare", "demo", str(out), "--json"]) == 0
    compared = printed_json(capsys)
    assert compared["agreement"] >= 0.985
    assert compared["images"] >= 500
    graph = onnx.load(out).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_resnet20_keeps_its_answers_in_int8(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(shared / "models" / "resnet20-cifar10.onnx"), tmp_path / "int8.onnx"
    images = ["--preprocess", "cifar10", "--data", str(shared / "data" / "cifar10-calibration.npz")]
    assert ranksmith(["quantize", model, *images, "-o", str(out), "--json"]) == 0
    assert printed_json(capsys)["kept"] == []
    assert ranksmith(["compare", model, str(out), *images, "--images", "300", "--json"]) == 0
    assert printed_json(capsys)["agreement"] >= 0.98
