"""What is reached, what is left out, and how it is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph.fold import fold
from ranksmith.graph.gradient import SEED, gradient_model, gradient_name
from ranksmith.graph.io import load, to_bytes
from ranksmith.graph.query import conv_context, conv_infos
from tests.models import GraphBuilder, residual_classifier, run
from tests.unit.graph.gradient.cases import Body, gradients, ints, unary


def test_a_residual_classifier_is_reached_from_end_to_end() -> None:
    model = residual_classifier()
    values = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    rng = np.random.default_rng(0)
    x, seed = rng.standard_normal((3, 3, 16, 16)).astype(np.float32), rng.standard_normal((3, 10)).astype(np.float32)
    found = gradients(model, x, seed, values, "logits")
    assert list(found) == values


def classifier_with(body: Body, *, opset: int = 17) -> onnx.ModelProto:
    """x → Conv `first` → `body` → Conv `second` → mean → y [N, 4]."""
    build = GraphBuilder(opset=opset)
    x = build.conv(build.input("x", ["N", 3, 8, 8]), "first", (3, 4), pads=[1, 1, 1, 1])
    x = build.conv(body(build, x), "second", (4, 4), pads=[1, 1, 1, 1])
    build.node("Flatten", [build.node("GlobalAveragePool", [x], "pooled")], "y")
    build.output("y", ["N", 4])
    return build.model()


def reached(model: onnx.ModelProto, values: Sequence[str] = ("first_out", "second_out")) -> list[str]:
    return gradient_model(ir.from_proto(model), values, "y")[1]


def _true(build: GraphBuilder) -> str:
    build.initializers.append(onnx.numpy_helper.from_array(np.array(True), "true"))
    return "true"


def _of_unknown_size(build: GraphBuilder, x: str) -> str:
    """As many rows as the largest element says."""
    rows = build.node("Reshape", [build.node("ReduceMax", [x], "largest", keepdims=0), ints(build, 1)], "rows")
    ends = build.node("Cast", [rows], "ends", to=onnx.TensorProto.INT64)
    return build.node("Slice", [x, ints(build, 0), ends, ints(build, 2)], "cut")


UNKNOWN: dict[str, Body] = {
    "an operator without a rule": unary("Softsign"),
    "an average over what ceil mode adds": unary("AveragePool", kernel_shape=[3, 3], ceil_mode=1),
    "a bound that is computed": lambda build, x: build.node(
        "Clip", [x, build.node("ReduceMin", [x], "low", keepdims=0)], "clipped"
    ),
    "an average over pads that do not count, of unknown size": lambda build, x: build.node(
        "AveragePool", [_of_unknown_size(build, x)], "mean", kernel_shape=[3, 3], pads=[1, 1, 1, 1]
    ),
    "an average that pads itself, of unknown size": lambda build, x: build.node(
        "AveragePool", [_of_unknown_size(build, x)], "mean", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "a Conv that pads itself, of unknown size": lambda build, x: build.conv(
        _of_unknown_size(build, x), "conv", (4, 4), strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "axes that are computed": lambda build, x: build.node(
        "Add",
        [x, build.node("ReduceSum", [x, build.node("Shape", [build.constant("c", np.ones(3))], "axis")], "r")],
        "a",
    ),
    "edge padding": lambda build, x: build.node("Pad", [x, ints(build, *[0, 0, 1, 1] * 2)], "p", mode="edge"),
    "a part of a sum": lambda build, x: build.node("Add", [x, build.node("Softsign", [x], "softsign")], "sum"),
    "a computed weight": lambda build, x: build.node(
        "Conv", [x, build.node("Slice", [x, ints(build, 0), ints(build, 4), ints(build, 0)], "w")], "conv"
    ),
    "product of two activations": lambda build, x: build.node("MatMul", [x, build.node("Relu", [x], "r")], "product"),
    "training": lambda build, x: build.node("Dropout", [x, "", _true(build)], "dropped"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_gradient_that_would_lack_a_part_is_left_out(name: str) -> None:
    assert reached(classifier_with(UNKNOWN[name])) == ["second_out"]


def test_an_operator_of_somebody_else_ends_the_way_back() -> None:
    def body(build: GraphBuilder, x: str) -> str:
        return build.node("Relu", [build.node("Own", [x], "own", domain="com.example")], "relu")

    model = classifier_with(body)
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    assert reached(model) == []  # for nobody knows the types behind it
    with pytest.raises(ModelError, match="type of 'relu'"):
        gradient_model(ir.from_proto(model), ["first_out"], "relu")


def test_an_unknown_operator_beside_the_way_does_no_harm() -> None:
    def body(build: GraphBuilder, x: str) -> str:
        build.node("Softsign", [x], "unused")
        shape = build.node("Shape", [build.node("Softsign", [x], "shaped")], "shape")
        return build.node("Reshape", [x, shape], "same")

    assert reached(classifier_with(body)) == ["first_out", "second_out"]


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12])
def test_old_opsets_are_converted(opset: int) -> None:
    new, old = (residual_classifier(opset=number) for number in (13, opset))
    rng = np.random.default_rng(0)
    x, seed = rng.standard_normal((2, 3, 16, 16)).astype(np.float32), rng.standard_normal((2, 10)).astype(np.float32)
    values = ["stem_out", "block1/conv2_out"]
    expected, found = (gradients(model, x, seed, values, "logits") for model in (new, old))
    assert list(found) == values
    for value in values:
        np.testing.assert_allclose(found[value], expected[value], rtol=1e-4, atol=1e-6)


def test_what_cannot_be_converted_is_not_followed() -> None:
    model = classifier_with(unary("Own", domain="com.example"), opset=9)
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    model.graph.node[0].op_type = "ConvOfTomorrow"
    assert reached(model) == []


def test_what_the_output_does_not_depend_on_is_not_reached() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 3, 4, 4])
    build.conv(x, "aside", (3, 4))
    build.node("GlobalAveragePool", [build.conv(x, "conv", (3, 4))], "y")
    build.output("y", ["N", 4, 1, 1])
    assert reached(build.model(), ["aside_out", "conv_out"]) == ["conv_out"]


def test_values_of_the_same_gradient_and_the_output_itself_are_named_apart() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 3, 4, 4])
    build.node("Add", [build.conv(x, "a", (3, 4)), build.conv(x, "b", (3, 4))], "y")
    build.output("y", ["N", 4, 2, 2])
    seed = np.random.default_rng(0).standard_normal((2, 4, 2, 2)).astype(np.float32)
    found = gradients(build.model(), np.zeros((2, 3, 4, 4), np.float32), seed, ["a_out", "y", "b_out", "a_out"])
    assert list(found) == ["a_out", "y", "b_out"]
    for gradient in found.values():
        np.testing.assert_array_equal(gradient, seed)


def test_the_model_is_left_as_it_was_and_unknown_values_are_named() -> None:
    model = ir.from_proto(residual_classifier())
    before = ir.to_proto(model).SerializeToString()
    gradient_model(model, ["stem_out"], "logits")
    assert ir.to_proto(model).SerializeToString() == before
    with pytest.raises(NodeNotFoundError, match="stem_ou'"):
        gradient_model(model, ["stem_ou"], "logits")


def test_every_conv_of_a_real_network_is_reached(shared: Path) -> None:
    model = load(shared / "models" / "resnet50-v1.onnx")
    fold(model)
    convs = [info for info in conv_infos(model) if info.candidate]
    values = [conv_context(model, info.node).output_value for info in convs]
    made, found = gradient_model(model, values, "logits")
    assert found == values
    assert len(found) == 52
    feeds = {"data": np.random.default_rng(0).normal(0, 50, (1, 3, 224, 224)).astype(np.float32)}
    seed = np.random.default_rng(1).standard_normal((1, 1000)).astype(np.float32)
    answers = run(to_bytes(made), {**feeds, SEED: seed}, optimize=True)
    nodes = {node.name: node for node in model.graph}
    for info, value in list(zip(convs, values, strict=True))[10::20]:
        # Moving a Conv's bias moves its output everywhere.
        bias = nodes[info.node].inputs[2]
        assert bias is not None
        assert bias.const_value is not None
        kept, slope = bias.const_value, answers[gradient_name(value)].sum((0, 2, 3), dtype=np.float64)
        step = 1e-2 * np.abs(kept.numpy()).mean() * slope / np.linalg.norm(slope)
        moved = []
        for sign in (1, -1):
            bias.const_value = ir.tensor((kept.numpy() + sign * step).astype(np.float32), name=bias.name)
            moved.append(run(to_bytes(model), feeds, optimize=True)["logits"].astype(np.float64))
        bias.const_value = kept
        expected = ((moved[0] - moved[1]) * seed).sum() / 2
        assert float(slope @ step) == pytest.approx(expected, rel=0.1)


def test_shortcuts_that_are_sliced_and_padded_are_passed(shared: Path) -> None:
    model = load(shared / "models" / "resnet20-cifar10.onnx")
    fold(model)
    values = [conv_context(model, info.node).output_value for info in conv_infos(model)]
    assert gradient_model(model, values, "y")[1] == values
