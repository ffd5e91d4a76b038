from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from ranksmith.convolution import ConvLayer
from ranksmith.graph.context import context_model
from tests.models import node_types, run


def layer(out_channels: int, in_channels: int, kernel: int, **geometry: Any) -> ConvLayer:
    group = geometry.get("group", 1)
    weight = np.random.default_rng(0).standard_normal((out_channels, in_channels // group, kernel, kernel), np.float32)
    return ConvLayer(weight * np.float32(0.1), np.ones(out_channels, np.float32), **geometry)


SAME: dict[str, Any] = {"pads": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("chain", "size"),
    [
        ([layer(16, 16, 3, **SAME)], (8, 8)),
        ([layer(8, 16, 3, **SAME), layer(16, 8, 1)], (7, 8)),
        ([layer(32, 16, 3, strides=(2, 2), **SAME)], (8, 9)),
        ([layer(16, 16, 3)], (8, 7)),
        ([layer(16, 16, 3, pads=(2, 2, 3, 2))], (6, 6)),
        ([layer(16, 64, 1)], (4, 4)),
        ([layer(24, 16, 3, **SAME)], (4, 4)),
        ([layer(6, 4, 3, **SAME)], (4, 4)),
        ([layer(32, 32, 3, group=4, **SAME)], (4, 4)),
        ([layer(16, 16, 3, dilations=(2, 2), strides=(3, 3), pads=(2, 2, 2, 2))], (7, 7)),
    ],
)
@pytest.mark.parametrize("followers", [[], ["Relu"], ["Add", "Relu"], ["Add", "Clip"]])
def test_the_chain_stands_among_its_neighbours(
    chain: list[ConvLayer], size: tuple[int, int], followers: list[str]
) -> None:
    content = context_model(chain, size, followers)
    model = onnx.ModelProto.FromString(content)
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(1).standard_normal((2, chain[0].in_channels, *size), np.float32)
    found = run(content, {"x": x})["y"]
    assert found.shape == (2, chain[-1].out_channels, 1, 1)
    assert np.isfinite(found).all()
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert set(followers) <= set(node_types(model))


def test_the_last_conv_of_the_chain_feeds_the_add() -> None:
    model = onnx.ModelProto.FromString(context_model([layer(8, 16, 3, **SAME), layer(16, 8, 1)], (8, 8), ["Add"]))
    add = next(node for node in model.graph.node if node.op_type == "Add")
    maker = next(node for node in model.graph.node if add.input[0] in node.output)
    assert maker.name == "layer1"


def test_a_follower_that_is_none_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="Softmax"):
        context_model([layer(16, 16, 1)], (4, 4), ["Softmax"])


def optimized(chain: Sequence[ConvLayer], followers: Sequence[str], folder: Path) -> list[onnx.NodeProto]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    content = context_model(chain, (14, 14), followers)
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return list(onnx.load(folder / "optimized.onnx").graph.node)


def test_an_aligned_pair_stays_in_the_blocked_layout_and_takes_the_add_in(tmp_path: Path) -> None:
    nodes = optimized([layer(32, 64, 3, **SAME), layer(64, 32, 1)], ["Add", "Relu"], tmp_path)
    blocked = [node for node in nodes if node.domain == "com.microsoft.nchwc"]
    if not blocked:
        pytest.skip("this machine's onnxruntime has no blocked layout")
    assert blocked == nodes
    assert [node.op_type for node in nodes] == ["ReorderInput", *["Conv"] * 4, "GlobalAveragePool", "ReorderOutput"]
    assert max(len(node.input) for node in nodes) == 4
