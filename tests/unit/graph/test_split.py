from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper

from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph import io
from ranksmith.graph.fold import fold
from ranksmith.graph.normalize import normalize
from ranksmith.graph.query import conv_context, conv_infos
from ranksmith.graph.split import between, bottlenecks, split
from ranksmith.graph.verify import verify
from tests.models import GraphBuilder, random_feeds, residual_classifier, run


def normalized(proto: onnx.ModelProto) -> ir.Model:
    model = ir.serde.deserialize_model(proto)
    normalize(model)
    return model


def run_in_two(model: ir.Model, value: str, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    prefix, suffix, crossing = split(model, value)
    verify(prefix)
    verify(suffix)
    assert crossing[0] == value
    known = {**run(io.to_bytes(prefix), feeds), **feeds}
    return run(io.to_bytes(suffix), {name: known[name] for name in crossing})


def every_value(proto: onnx.ModelProto) -> list[str]:
    return ["x", *(node.output[0] for node in proto.graph.node)]


def test_the_two_parts_give_what_the_whole_gives_wherever_it_is_cut() -> None:
    proto = residual_classifier(widths=(4, 8), hw=(8, 8))
    model = normalized(proto)
    feeds = random_feeds(proto)
    expected = run(proto, feeds)
    before = io.to_bytes(model)
    for value in every_value(proto):
        found = run_in_two(model, value, feeds)
        assert list(found) == ["logits"]
        np.testing.assert_array_equal(found["logits"], expected["logits"])
    assert io.to_bytes(model) == before


def test_the_shortcut_crosses_beside_the_value() -> None:
    model = normalized(residual_classifier())
    prefix, suffix, crossing = split(model, "block1/conv2/bn_out")
    assert crossing == ["block1/conv2/bn_out", "block1/shortcut/bn_out"]
    assert [value.name for value in prefix.graph.outputs] == crossing
    assert [value.name for value in suffix.graph.inputs] == crossing
    assert [node.op_type for node in suffix.graph] == ["Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert prefix.graph.outputs[0].shape == ir.Shape(["N", 32, 8, 8])


def test_an_input_that_is_read_again_later_crosses() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    y = build.node("Relu", [build.conv(x, "conv", (4, 4), pads=[1, 1, 1, 1])], "relu")
    build.output(build.node("Add", [y, x], "y"), ["N", 4, 6, 6])
    proto = build.model()
    model = normalized(proto)
    prefix, _, crossing = split(model, "conv_out")
    assert crossing == ["conv_out", "x"]
    assert [value.name for value in prefix.graph.outputs] == ["conv_out"]
    feeds = random_feeds(proto)
    np.testing.assert_array_equal(run_in_two(model, "conv_out", feeds)["y"], run(proto, feeds)["y"])


def test_outputs_that_do_not_depend_on_the_value_are_still_given() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4])
    build.output(build.node("Relu", [x], "early"), ["N", 4])
    build.output(build.node("Abs", [build.node("Neg", [x], "cut")], "late"), ["N", 4])
    proto = build.model()
    feeds = random_feeds(proto)
    found = run_in_two(normalized(proto), "cut", feeds)
    assert list(found) == ["early", "late"]
    for name, value in run(proto, feeds).items():
        np.testing.assert_array_equal(found[name], value)


def test_arithmetic_on_constants_is_copied_not_crossed() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    shape = build.node(
        "Concat",
        [build.constant("a", np.array([-1], np.int64)), build.constant("b", np.array([12], np.int64))],
        "shape",
        axis=0,
    )
    build.output(build.node("Reshape", [build.node("Relu", [x], "relu"), shape], "y"), ["M", 12])
    proto = build.model()
    _, suffix, crossing = split(normalized(proto), "relu")
    assert crossing == ["relu"]
    assert [node.op_type for node in suffix.graph] == ["Concat", "Reshape"]
    feeds = random_feeds(proto)
    np.testing.assert_array_equal(run_in_two(normalized(proto), "relu", feeds)["y"], run(proto, feeds)["y"])


def test_what_a_subgraph_reads_crosses_too() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4])
    side = build.node("Relu", [x], "side")
    cut = build.node("Neg", [x], "cut")
    total = build.node("ReduceSum", [cut], "total", keepdims=0)
    condition = build.node("Greater", [total, build.weights("zero", (), scale=0.0)], "yes")
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, [side], [f"{name}_out"], name=f"{name}_node")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, ["N", 4])],
        )
        for name, op in (("then_branch", "Abs"), ("else_branch", "Sqrt"))
    }
    build.output(build.node("If", [condition], "y", **branches), ["N", 4])
    proto = build.model()
    model = normalized(proto)
    assert split(model, "cut")[2] == ["cut", "side"]
    for seed in range(4):
        feeds = random_feeds(proto, seed=seed)
        np.testing.assert_array_equal(run_in_two(model, "cut", feeds)["y"], run(proto, feeds)["y"])


def test_an_unknown_value_and_one_of_unknown_type_are_refused() -> None:
    with pytest.raises(NodeNotFoundError, match="no value named 'stem/rely'"):
        split(normalized(residual_classifier()), "stem/rely")
    build = GraphBuilder()
    y = build.node("Mystery", [build.input("x", ["N", 4])], "y", domain="custom")
    build.output(build.node("Mystery", [y], "z", domain="custom"), ["N", 4])
    proto = build.model()
    proto.opset_import.append(helper.make_opsetid("custom", 1))
    with pytest.raises(ModelError, match="type of 'y' cannot be inferred"):
        split(normalized(proto), "y")


def test_a_pytorch_export_can_be_cut_at_every_conv(shared: Path) -> None:
    model = io.load(shared / "models" / "resnet20-cifar10.onnx")
    fold(model)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)}
    expected = run(io.to_bytes(model), feeds)["y"]
    for conv in conv_infos(model)[::4]:
        value = conv_context(model, conv.node).output_value
        np.testing.assert_array_equal(run_in_two(model, value, feeds)["y"], expected)


def test_the_part_between_two_values_is_that_part_alone() -> None:
    whole = residual_classifier(batch_norm=False)
    model = normalized(whole)
    part = ir.to_proto(between(model, "stem/relu", "block1/conv1_out"))
    assert [value.name for value in part.graph.input] == ["stem/relu"]
    assert [value.name for value in part.graph.output] == ["block1/conv1_out"]
    assert "block1/shortcut" not in [node.name for node in part.graph.node]
    names = ["stem/relu", "block1/conv1_out"]
    whole.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    expected = run(whole, random_feeds(whole))
    found = run(part, {"stem/relu": expected["stem/relu"]})
    np.testing.assert_allclose(found["block1/conv1_out"], expected["block1/conv1_out"], rtol=1e-5, atol=1e-6)


def test_the_part_between_values_that_do_not_exist_is_refused() -> None:
    model = normalized(residual_classifier())
    with pytest.raises(NodeNotFoundError):
        between(model, "nowhere", "logits")


def test_several_values_between() -> None:
    proto = residual_classifier(widths=(4, 8), hw=(8, 8))
    part = between(normalized(proto), "block0/relu2", "block1/add", "block1/shortcut/bn_out")
    assert [value.name for value in part.graph.outputs] == ["block1/add", "block1/shortcut/bn_out"]
    assert [value.name for value in part.graph.inputs] == ["block0/relu2"]


def test_bottlenecks_are_where_everything_passes() -> None:
    model = normalized(residual_classifier(widths=(4, 8), hw=(8, 8)))
    found = bottlenecks(model)
    assert found["stem"] == "x"
    assert {found[f"block0/{name}"] for name in ("conv1", "conv2")} == {"stem/relu"}
    assert {found[f"block1/{name}"] for name in ("conv1", "conv2", "shortcut")} == {"block0/relu2"}
    assert found["fc"] == "flat"
    for node, value in found.items():
        made = next(each.outputs[0].name for each in model.graph if each.name == node)
        assert between(model, value, made or "").graph.inputs[0].name == value
