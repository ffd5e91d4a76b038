"""Gradients of tiny models, against finite differences taken in double precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ranksmith.errors import NodeNotFoundError
from ranksmith.graph.fold import fold
from ranksmith.graph.gradient import DRAW, SEED, gradient_model, gradient_name, score_model
from ranksmith.graph.io import load, to_bytes
from ranksmith.graph.query import conv_context, conv_infos
from tests.models import GraphBuilder, residual_classifier, run

Array = NDArray[Any]
Body = Callable[[GraphBuilder, str], str]
_STEP = 1e-6


def gradients(
    model: onnx.ModelProto, x: Array, seed: Array, values: Sequence[str], output: str = "y"
) -> dict[str, Array]:
    """The gradients that are reached, by value, in onnxruntime."""
    made, reached = gradient_model(ir.from_proto(model), values, output)
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto)
    found = run(proto, {"x": x, SEED: seed}, optimize=True)
    assert list(found) == [gradient_name(value) for value in reached]
    return {value: found[gradient_name(value)] for value in reached}


def check(body: Body, shape: Sequence[int], *, opset: int = 17, dynamic: bool = False, tolerance: float = 2e-4) -> None:
    """The gradient of a model [N, …] → y with respect to its input, along random directions."""
    models = {}
    for dtype in (np.float32, np.float64):
        build = GraphBuilder(opset=opset, dtype=dtype)
        dims = ["N", shape[1], *(f"d{i}" for i in range(2, len(shape)))] if dynamic else ["N", *shape[1:]]
        made = body(build, build.node("Identity", [build.input("x", dims)], "x0"))
        build.node("Identity", [made], "y")
        build.output("y", None)
        models[dtype] = build.model()
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape)
    exact = ReferenceEvaluator(models[np.float64])
    y = exact.run(None, {"x": x})[0]
    seed = rng.standard_normal(y.shape)
    found = gradients(models[np.float32], x.astype(np.float32), seed.astype(np.float32), ["x"])
    assert found["x"].shape == x.shape
    for _ in range(3):
        direction = rng.standard_normal(shape)
        ahead, behind = (exact.run(None, {"x": x + s * _STEP * direction})[0] for s in (1, -1))
        expected = float(((ahead - behind) * seed).sum()) / (2 * _STEP)
        scale = np.linalg.norm(found["x"]) * np.sqrt(direction.size) / 3 + 1e-3
        assert abs(float((found["x"] * direction).sum()) - expected) < tolerance * scale


def unary(op: str, **attributes: Any) -> Body:
    return lambda build, x: build.node(op, [x], op, **attributes)


def weighted(op: str, shape: Sequence[int], *, first: bool = True, **attributes: Any) -> Body:
    def body(build: GraphBuilder, x: str) -> str:
        weight = build.constant("w", np.asarray(build.rng.uniform(0.5, 2, shape), build.dtype))
        return build.node(op, [x, weight] if first else [weight, x], op, **attributes)

    return body


def test_a_residual_classifier_is_reached_from_end_to_end() -> None:
    model = residual_classifier()
    values = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    rng = np.random.default_rng(0)
    x, seed = rng.standard_normal((3, 3, 16, 16)).astype(np.float32), rng.standard_normal((3, 10)).astype(np.float32)
    found = gradients(model, x, seed, values, "logits")
    assert list(found) == values


ELEMENTWISE = {
    "relu": unary("Relu"),
    "leaky relu": unary("LeakyRelu", alpha=0.3),
    "sigmoid": unary("Sigmoid"),
    "tanh": unary("Tanh"),
    "hard sigmoid": unary("HardSigmoid", alpha=0.4, beta=0.3),
    "hard swish": unary("HardSwish"),
    "softmax": unary("Softmax", axis=1),
    "identity": unary("Identity"),
    "dropout": unary("Dropout"),
    "added to a channel": weighted("Add", (3, 1, 1)),
    "stretched by what it is added to": weighted("Add", (2, 2, 3, 4, 5)),
    "less a channel": weighted("Sub", (3, 1, 1)),
    "a scalar less it": weighted("Sub", (), first=False),
    "times a channel": weighted("Mul", (1, 3, 1, 1)),
    "over a channel": weighted("Div", (3, 1, 1)),
    "clipped": lambda build, x: build.node(
        "Clip", [x, build.constant("low", build.dtype.type(-0.5)), build.constant("high", build.dtype.type(0.7))], "c"
    ),
    "clipped from above": lambda build, x: build.node(
        "Clip", [x, "", build.constant("high", build.dtype.type(0.7))], "c"
    ),
    "normalized": lambda build, x: build.batch_norm(x, "bn", 3),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_operators_that_work_element_by_element(name: str, dynamic: bool) -> None:
    check(ELEMENTWISE[name], (2, 3, 4, 5), dynamic=dynamic)


def _divided(build: GraphBuilder, x: str) -> str:
    shifted = build.node("Add", [build.node("Mul", [x, x], "square"), build.constant("one", build.dtype.type(1))], "d")
    return build.node("Div", [x, shifted], "ratio")


def _squeeze_and_excite(build: GraphBuilder, x: str) -> str:
    gate = build.node("Sigmoid", [build.node("GlobalAveragePool", [x], "mean")], "gate")
    return build.node("Mul", [x, gate], "excited")


def _difference(build: GraphBuilder, x: str) -> str:
    mean = build.node("GlobalAveragePool", [x], "mean")
    return build.node("Sub", [build.node("Tanh", [x], "tanh"), mean], "difference")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("body", [_divided, _squeeze_and_excite, _difference])
def test_both_operands_get_their_part_summed_to_their_shape(body: Body, dynamic: bool) -> None:
    check(body, (2, 3, 4, 5), dynamic=dynamic)


def test_what_is_stretched_over_missing_axes_is_summed_over_them() -> None:
    def body(build: GraphBuilder, x: str) -> str:
        wide = build.constant("wide", build.rng.standard_normal((4, 2, 3, 1)).astype(build.dtype))
        return build.node("Mul", [x, wide], "wider")

    check(body, (2, 3, 5))
    check(body, (2, 3, 5), dynamic=True)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21])
def test_means_and_sums_in_every_dialect(opset: int) -> None:
    for op in ("ReduceMean", "ReduceSum"):
        for keepdims in (0, 1):

            def body(build: GraphBuilder, x: str, op: str = op, keepdims: int = keepdims) -> str:
                if opset >= (18 if op == "ReduceMean" else 13):
                    axes = build.constant("axes", np.asarray([2, -1]))
                    return build.node(op, [x, axes], "r", keepdims=keepdims)
                return build.node(op, [x], "r", axes=[2, -1], keepdims=keepdims)

            check(body, (2, 3, 4, 5), opset=opset)


def test_softmax_flattened_what_followed_before_opset_13() -> None:
    def built(opset: int, body: Body) -> onnx.ModelProto:
        build = GraphBuilder(opset=opset)
        build.node("Identity", [body(build, build.input("x", ["N", 3, 4]))], "y")
        build.output("y", ["N", 3, 4])
        return build.model()

    def flattened(build: GraphBuilder, x: str) -> str:
        flat = build.node("Softmax", [build.node("Flatten", [x], "flat")], "s", axis=1)
        return build.node("Reshape", [flat, build.constant("shape", np.asarray([-1, 3, 4]))], "r")

    x, seed = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    old = gradients(built(11, unary("Softmax", axis=1)), x, seed, ["x"])["x"]
    np.testing.assert_allclose(old, gradients(built(17, flattened), x, seed, ["x"])["x"], atol=1e-6)


@st.composite
def _windows(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes, kernels, strides, pads and dilations that leave at least one position."""
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    dilations = [draw(st.integers(1, 2)) for _ in range(2)]
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    return {
        "hw": [span + draw(st.integers(0, 4)) for span in spans],
        "kernel": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in range(2)],
        "pads": [draw(st.integers(0, 2)) for _ in range(4)],
        "dilations": dilations,
    }


@given(_windows(), st.sampled_from([(4, 6, 1), (4, 6, 2), (4, 4, 4), (3, 1, 1)]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_convs_of_every_geometry(window: dict[str, Any], channels: tuple[int, int, int], dynamic: bool) -> None:
    inside, outside, group = channels
    window, hw = dict(window), window["hw"]
    del window["hw"]
    check(
        lambda build, x: build.conv(
            x, "conv", (inside, outside), group=group, bias=True, **{**window, "kernel": tuple(window["kernel"])}
        ),
        (2, inside, *hw),
        dynamic=dynamic,
    )


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_convs_and_pools_that_pad_by_themselves(mode: str) -> None:
    check(lambda build, x: build.conv(x, "conv", (3, 4), strides=[2, 2], auto_pad=mode), (2, 3, 6, 7))
    if mode != "SAME_LOWER":  # which the reference gets wrong for pools
        pool = {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": mode}
        check(unary("AveragePool", **pool), (2, 3, 6, 7))
        check(unary("MaxPool", **pool), (2, 3, 6, 7))


@given(_windows(), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=25)
def test_average_pools_of_every_geometry(window: dict[str, Any], count_include_pad: bool, dynamic: bool) -> None:
    pads = [min(pad, (window["kernel"] * 2)[axis] - 1) for axis, pad in enumerate(window["pads"])]
    dynamic = dynamic and (count_include_pad or not any(pads))
    body = unary(
        "AveragePool",
        kernel_shape=window["kernel"],
        strides=window["strides"],
        pads=pads,
        count_include_pad=int(count_include_pad),
    )
    check(body, (2, 3, *window["hw"]), dynamic=dynamic)


@given(_windows(), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=25)
def test_max_pools_of_every_geometry_overlapping_ones_too(window: dict[str, Any], ceil: bool, dynamic: bool) -> None:
    # Shape inference counts windows that begin outside the image, which no runtime makes.
    spans = [d * (k - 1) + 1 for d, k in zip(window["dilations"], window["kernel"], strict=True)]
    strides = [min(s, span) if ceil else s for s, span in zip(window["strides"], spans, strict=True)]
    pads = [min(pad, (window["kernel"] * 2)[axis] - 1) for axis, pad in enumerate(window["pads"])]
    body = unary(
        "MaxPool",
        kernel_shape=window["kernel"],
        strides=strides,
        pads=[0] * 4 if ceil else pads,
        dilations=window["dilations"],
        ceil_mode=int(ceil),
    )
    check(body, (2, 3, *window["hw"]), dynamic=dynamic)


def _ints(build: GraphBuilder, *numbers: int) -> str:
    return build.constant(f"ints{len(build.initializers)}", np.asarray(numbers, np.int64))


def _joined(build: GraphBuilder, x: str) -> str:
    parts = [x, build.node("Sigmoid", [x], "s"), build.weights("constant", (2, 1, 4, 5)), x]
    return build.node("Concat", parts, "joined", axis=1)


def _split(build: GraphBuilder, x: str) -> str:
    build.nodes.append(onnx.helper.make_node("Split", [x, _ints(build, 1, 2, 1)], ["a", "b", "c"], "split", axis=1))
    return build.node("Mul", [build.node("Tanh", ["c"], "t"), "a"], "product")


def _shuffled(build: GraphBuilder, x: str) -> str:
    parted = build.node("Reshape", [x, _ints(build, 0, 2, 2, 4, 5)], "parted")
    turned = build.node("Transpose", [parted], "turned", perm=[0, 2, 1, 4, 3])
    return build.node("Reshape", [turned, _ints(build, 0, -1, 5, 4)], "shuffled")


def _shortcut(build: GraphBuilder, x: str) -> str:
    """How a ResNet without projections is exported: every second pixel, and new channels of zeros."""
    inputs = [x, _ints(build, 0, -1), _ints(build, 9, -9), _ints(build, 2, 3), _ints(build, 2, -2)]
    return build.node("Pad", [build.node("Slice", inputs, "s"), _ints(build, 0, 1, 0, 0, 0, 2, 0, 0)], "p")


SHAPING = {
    "joined": _joined,
    "split": _split,
    "shuffled": _shuffled,
    "shortcut": _shortcut,
    "flattened": unary("Flatten", axis=2),
    "turned round": unary("Transpose"),
    "squeezed": lambda build, x: build.node(
        "Squeeze", [build.node("Unsqueeze", [x, _ints(build, 1, 5)], "u"), _ints(build, 1)], "squeezed"
    ),
    "padded along one axis": lambda build, x: build.node("Pad", [x, _ints(build, 1, 2), "", _ints(build, 3)], "p"),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", SHAPING)
def test_what_only_moves_goes_back_where_it_came_from(name: str, dynamic: bool) -> None:
    check(SHAPING[name], (2, 4, 4, 5), dynamic=dynamic, opset=18)


def test_padding_by_less_than_nothing_cuts_off() -> None:
    build = GraphBuilder()
    pads = _ints(build, 0, -1, 2, 0, 0, 1, -1, 0)
    build.node("Pad", [build.input("x", ["N", 4, 4, 5]), pads], "y")
    build.output("y", ["N", 4, 5, 5])
    rng = np.random.default_rng(0)
    x, seed = (rng.standard_normal((2, 4, height, 5)).astype(np.float32) for height in (4, 5))
    found = gradients(build.model(), x, seed, ["x"])["x"]
    assert float((found * x).sum()) == pytest.approx(float((seed * run(build.model(), {"x": x})["y"]).sum()), rel=1e-5)


def test_linear_layers() -> None:
    check(weighted("MatMul", (5, 7)), (2, 3, 4, 5))
    for turned in (0, 1):
        shape = (6, 5) if turned else (5, 6)
        check(weighted("Gemm", shape, transB=turned, alpha=0.7), (2, 5))


def classifier_with(body: Body, *, opset: int = 17) -> onnx.ModelProto:
    """x → Conv `first` → `body` → Conv `second` → mean → y [N, 4]."""
    build = GraphBuilder(opset=opset)
    x = build.conv(build.input("x", ["N", 3, 8, 8]), "first", (3, 4), pads=[1, 1, 1, 1])
    x = build.conv(body(build, x), "second", (4, 4), pads=[1, 1, 1, 1])
    build.node("Flatten", [build.node("GlobalAveragePool", [x], "mean")], "y")
    build.output("y", ["N", 4])
    return build.model()


def reached(model: onnx.ModelProto, values: Sequence[str] = ("first_out", "second_out")) -> list[str]:
    return gradient_model(ir.from_proto(model), values, "y")[1]


def _true(build: GraphBuilder) -> str:
    build.initializers.append(onnx.numpy_helper.from_array(np.array(True), "true"))
    return "true"


UNKNOWN: dict[str, Body] = {
    "an operator without a rule": unary("Softsign"),
    "an average over what ceil mode adds": unary("AveragePool", kernel_shape=[3, 3], ceil_mode=1),
    "a bound that is computed": lambda build, x: build.node(
        "Clip", [x, build.node("ReduceMin", [x], "low", keepdims=0)], "clipped"
    ),
    "edge padding": lambda build, x: build.node("Pad", [x, _ints(build, *[0, 0, 1, 1] * 2)], "p", mode="edge"),
    "a part of a sum": lambda build, x: build.node("Add", [x, build.node("Softsign", [x], "softsign")], "sum"),
    "a computed weight": lambda build, x: build.node(
        "Conv", [x, build.node("Slice", [x, _ints(build, 0), _ints(build, 4), _ints(build, 0)], "w")], "conv"
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


def test_an_unknown_operator_beside_the_way_does_no_harm() -> None:
    def body(build: GraphBuilder, x: str) -> str:
        build.node("Softsign", [x], "unused")
        shape = build.node("Shape", [build.node("Softsign", [x], "shaped")], "shape")
        return build.node("Reshape", [x, shape], "same")

    assert reached(classifier_with(body)) == ["first_out", "second_out"]


def test_old_opsets_are_not_followed() -> None:
    assert reached(classifier_with(unary("Relu"), opset=9)) == []
    assert reached(classifier_with(unary("Relu"), opset=11)) == ["first_out", "second_out"]


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


@pytest.mark.parametrize("probabilities", [False, True])
def test_labels_are_drawn_from_the_models_own_answers(probabilities: bool) -> None:
    model = residual_classifier(widths=(4,), classes=5)
    if probabilities:
        softmax = onnx.helper.make_node("Softmax", ["logits"], ["p"], "softmax", axis=1)
        model.graph.node.extend([softmax, onnx.helper.make_node("Identity", ["p"], ["out"], "last")])
        model.graph.output[0].name = "out"
    output = model.graph.output[0].name
    made, _ = score_model(ir.from_proto(model), ["logits"], output)
    rng = np.random.default_rng(0)
    x, draws = rng.standard_normal((64, 3, 16, 16)).astype(np.float32), rng.random((64, 1)).astype(np.float32)
    draws[:2] = [[0], [1 - 1e-7]]
    found = run(ir.to_proto(made), {"x": x, DRAW: draws}, optimize=True)[gradient_name("logits")]
    logits = gradients_free_logits(residual_classifier(widths=(4,), classes=5), x)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    labels = (np.cumsum(p, axis=1) <= draws).sum(1).clip(max=4)
    np.testing.assert_allclose(found, p - np.eye(5)[labels], atol=2e-6)


def gradients_free_logits(model: onnx.ModelProto, x: Array) -> Array:
    return run(model, {"x": x})["logits"].astype(np.float64)


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
    for info, value in list(zip(convs, values, strict=True))[7::15]:
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
