"""Node times come back under the original names, whatever onnxruntime makes of the graph."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from ranksmith.errors import ModelError
from ranksmith.runtime.profile import node_times
from ranksmith.runtime.quantize import quantizable_values, quantize
from tests.models import GraphBuilder, random_feeds, residual_classifier, save

BLOCKS = {"stem", "block0/conv1", "block0/conv2", "block1/conv1", "block1/conv2", "block1/shortcut"}


def _convs(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in model.graph.node if node.op_type == "Conv"}


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("widths", [(16, 32), (15, 30)], ids=["blocked", "unaligned"])
def test_every_conv_has_its_time(batch_norm: bool, widths: tuple[int, int]) -> None:
    model = residual_classifier(widths=widths, batch_norm=batch_norm)
    times = node_times(model.SerializeToString(), random_feeds(model), threads=1, runs=2)
    assert _convs(model) == BLOCKS
    assert set(times) >= BLOCKS | {"fc"}
    assert all(time >= 0 for time in times.values())
    assert not any(name.endswith("_nchwc") for name in times)


def test_a_pair_of_convs_has_a_time_each(tmp_path: Path) -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 16, 8, 8])
    weights = build.weights("w1", (16, 16, 3, 3)), build.weights("w2", (32, 16, 1, 1))
    x = build.node("Conv", [x, weights[0]], "out/1of2", name="conv/1of2", pads=[1, 1, 1, 1])
    x = build.node("Conv", [x, weights[1]], "out", name="conv/2of2")
    build.output(build.node("Relu", [x], "y"), ["N", 32, 8, 8])
    model = build.model()
    times = node_times(save(model, tmp_path / "pair.onnx"), random_feeds(model), threads=1, runs=2)
    assert {"conv/1of2", "conv/2of2"} <= set(times)


@pytest.mark.parametrize("keep", [(), ("block0/conv2",)], ids=["int8", "mixed"])
def test_a_quantized_conv_has_its_time_under_its_own_name(keep: tuple[str, ...]) -> None:
    model = residual_classifier(batch_norm=False)
    content = model.SerializeToString()
    quantized = quantize(content, dict.fromkeys(quantizable_values(content), (-4.0, 4.0)), keep=keep)
    times = node_times(quantized, random_feeds(model), threads=1, runs=2)
    assert set(times) >= BLOCKS
    assert not any("_token_" in name for name in times)


def test_a_conv_may_be_called_as_the_runtime_calls_its_own() -> None:
    model = residual_classifier(batch_norm=False)
    names = {"block0/conv1": "conv_token_7", "block1/conv1": "conv_nchwc"}
    for node in model.graph.node:
        node.name = names.get(node.name, node.name)
    times = node_times(model.SerializeToString(), random_feeds(model), threads=1, runs=1)
    assert {"conv_token_7", "conv_nchwc", "block0/conv2"} <= set(times)


def test_nothing_is_left_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = residual_classifier()
    node_times(model.SerializeToString(), random_feeds(model), runs=1)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_loaded_is_told() -> None:
    with pytest.raises(ModelError):
        node_times(b"text", {}, threads=1)


def test_every_conv_of_the_real_models_has_its_time(shared: Path) -> None:
    path = shared / "models" / "resnet20-cifar10.onnx"
    model = onnx.load(path)
    times = node_times(path, random_feeds(model, batch=1), threads=1, runs=1)
    assert len(_convs(model)) == 19
    assert _convs(model) <= set(times)
