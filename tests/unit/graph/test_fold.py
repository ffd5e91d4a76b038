from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from ranksmith.graph import io
from ranksmith.graph.fold import fold
from ranksmith.graph.verify import verify
from ranksmith.results import PassReport
from tests.models import GraphBuilder, conv_bn, node_types, random_feeds, residual_classifier, run


def folded(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """A folded copy, which the checker accepts."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model = ir.serde.deserialize_model(copy)
    report = fold(model)
    verify(model)
    return onnx.ModelProto.FromString(io.to_bytes(model)), report


def assert_same_outputs(a: onnx.ModelProto, b: onnx.ModelProto, *, tolerance: float = 1e-5, seed: int = 0) -> None:
    feeds = random_feeds(a, seed=seed)
    expected, found = run(a, feeds), run(b, feeds)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * max(1.0, float(np.abs(value).max())))


def why(report: PassReport, node: str = "bn") -> str:
    return next(skip.why for skip in report.skipped if skip.node == node)


@st.composite
def convs(draw: st.DrawFn) -> dict[str, Any]:
    group = draw(st.sampled_from([1, 1, 2, 3]))
    transposed = draw(st.booleans())
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    strides = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    spec: dict[str, Any] = {
        "channels": (group * draw(st.integers(1, 3)), group * draw(st.integers(1, 3))),
        "kernel": kernel,
        "strides": strides,
        "bias": draw(st.booleans()),
        "group": group,
        "transposed": transposed,
        "dilations": [draw(st.integers(1, 2)), draw(st.integers(1, 2))],
    }
    mode = draw(st.sampled_from(["pads", "VALID", "none"]))
    if mode == "pads":
        spec["pads"] = [draw(st.integers(0, kernel[axis % 2] - 1)) for axis in range(4)]
    elif mode == "VALID":
        spec["auto_pad"] = mode
    return spec


@settings(deadline=None, max_examples=40)
@given(spec=convs(), seed=st.integers(0, 1000))
def test_folding_any_conv_keeps_the_outputs(spec: dict[str, Any], seed: int) -> None:
    original = conv_bn(spec.pop("channels"), hw=(7, 6), seed=seed, **spec)
    result, report = folded(original)
    assert "BatchNormalization" not in node_types(result)
    assert not report.skipped
    assert_same_outputs(original, result, seed=seed)


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 17, 21, 22, 24])
def test_every_opset_folds_and_stays_what_it_is(opset: int) -> None:
    original = residual_classifier(opset=opset, widths=(4, 8), hw=(8, 8))
    result, _ = folded(original)
    assert "BatchNormalization" not in node_types(result)
    assert result.opset_import[0].version == opset
    assert_same_outputs(original, result)


def test_the_newest_opset_folds_too() -> None:
    newest = onnx.defs.onnx_opset_version()
    result, _ = folded(conv_bn(opset=newest))
    assert node_types(result) == ["Conv", "Relu"]
    assert result.opset_import[0].version == newest


def test_folding_twice_changes_nothing_more() -> None:
    once, _ = folded(residual_classifier(widths=(4, 8), hw=(8, 8)))
    twice, report = folded(once)
    assert not report.changed
    assert twice.SerializeToString() == once.SerializeToString()


def test_half_precision_weights_stay_half_precision() -> None:
    original = conv_bn(dtype=np.float16)
    result, _ = folded(original)
    assert {tensor.data_type for tensor in result.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert_same_outputs(original, result, tolerance=2e-2)


def test_double_precision_weights_stay_double() -> None:
    original = conv_bn(dtype=np.float64)
    result, _ = folded(original)
    assert {tensor.data_type for tensor in result.graph.initializer} == {onnx.TensorProto.DOUBLE}


def test_bfloat16_weights_are_folded_in_float64() -> None:
    original = conv_bn((4, 6), opset=22)
    expected, _ = folded(original)
    brain = onnx.ModelProto()
    brain.CopyFrom(original)
    for tensor in brain.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(
            helper.make_tensor(
                tensor.name, onnx.TensorProto.BFLOAT16, array.shape, array.view(np.uint16).tobytes(), raw=True
            )
        )
    for value in (*brain.graph.input, *brain.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    result, _ = folded(brain)
    model = ir.serde.deserialize_model(result)
    weight = model.graph.initializers["conv_weight"].const_value
    assert weight is not None
    assert weight.dtype == ir.DataType.BFLOAT16
    reference = numpy_helper.to_array(expected.graph.initializer[0])
    np.testing.assert_allclose(weight.numpy().astype(np.float32), reference, rtol=0.05, atol=0.02)


def test_a_weight_that_does_not_fit_its_type_is_not_folded() -> None:
    original = conv_bn(dtype=np.float16)
    variance = next(tensor for tensor in original.graph.initializer if tensor.name == "bn_var")
    variance.CopyFrom(numpy_helper.from_array(np.zeros(6, np.float16), "bn_var"))
    original.graph.node[1].attribute.append(helper.make_attribute("epsilon", 1e-12))
    result, report = folded(original)
    assert "BatchNormalization" in node_types(result)
    assert why(report) == "the folded weight would not be finite in float16"


def test_a_shared_weight_is_copied_so_that_the_other_conv_keeps_its_own() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    first = build.conv(x, "first", (4, 4), pads=[1, 1, 1, 1])
    second = build.node("Conv", [x, "first_weight"], "second_out", name="second", pads=[1, 1, 1, 1])
    build.output(build.batch_norm(first, "bn", 4), ["N", 4, 6, 6])
    build.output(second, ["N", 4, 6, 6])
    original = build.model()
    result, _ = folded(original)
    assert "BatchNormalization" not in node_types(result)
    assert_same_outputs(original, result)


def test_shared_statistics_fold_into_each_conv() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    first = build.batch_norm(build.conv(x, "first", (4, 4), bias=True), "bn", 4)
    second = build.conv(first, "second", (4, 4))
    names = ["bn_gamma", "bn_beta", "bn_mean", "bn_var"]
    build.output(build.node("BatchNormalization", [second, *names], "y", name="bn2"), ["N", 4, "h", "w"])
    original = build.model()
    result, _ = folded(original)
    assert node_types(result) == ["Conv", "Conv"]
    assert_same_outputs(original, result)


def test_two_batch_normalizations_in_a_row_fold_both() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    y = build.batch_norm(build.conv(x, "conv", (4, 4)), "bn", 4)
    build.output(build.batch_norm(y, "again", 4), ["N", 4, "h", "w"])
    original = build.model()
    result, _ = folded(original)
    assert node_types(result) == ["Conv"]
    assert_same_outputs(original, result)


def test_a_second_consumer_of_the_conv_prevents_folding() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    y = build.conv(x, "conv", (4, 4))
    build.node("Relu", [y], "other", name="reader")
    build.output(build.node("Add", [build.batch_norm(y, "bn", 4), "other"], "y"), ["N", 4, "h", "w"])
    original = build.model()
    result, report = folded(original)
    assert "BatchNormalization" in node_types(result)
    assert why(report) == "its input conv_out is also read by reader"
    assert_same_outputs(original, result)


def test_a_conv_whose_output_the_model_gives_prevents_folding() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    y = build.conv(x, "conv", (4, 4))
    build.output(y, ["N", 4, "h", "w"])
    build.output(build.batch_norm(y, "bn", 4), ["N", 4, "h", "w"])
    original = build.model()
    result, report = folded(original)
    assert why(report) == "its input conv_out is an output of the model"
    assert_same_outputs(original, result)


def test_a_batch_normalization_that_is_the_output_leaves_its_name_to_the_conv() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    build.output(build.batch_norm(build.conv(x, "conv", (4, 4)), "bn", 4, output="features"), ["N", 4, "h", "w"])
    result, _ = folded(build.model())
    assert [value.name for value in result.graph.output] == ["features"]
    assert list(result.graph.node[0].output) == ["features"]
    assert result.graph.node[0].name == "conv"


def test_a_batch_normalization_without_a_conv_before_it_says_what_is_there() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    y = build.batch_norm(build.node("Relu", [build.batch_norm(x, "first", 4)], "relu", name="act"), "bn", 4)
    build.output(y, ["N", 4, 6, 6])
    _, report = folded(build.model())
    assert why(report) == "its input comes from a Relu (act), not from a Conv"
    assert why(report, "first") == "its input comes from the input x, not from a Conv"


def test_training_mode_is_left_alone() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    y = build.batch_norm(build.conv(x, "conv", (4, 4)), "bn", 4, training_mode=1)
    build.nodes[-1].output.extend(["running_mean", "running_var"])
    build.output(y, ["N", 4, "h", "w"])
    _, report = folded(build.model())
    assert "training mode" in why(report)


def test_several_outputs_before_opset_14_mean_training() -> None:
    build = GraphBuilder(opset=9)
    x = build.input("x", ["N", 4, 6, 6])
    y = build.batch_norm(build.conv(x, "conv", (4, 4)), "bn", 4)
    build.nodes[-1].output.extend(["a", "b", "c", "d"])
    build.output(y, ["N", 4, "h", "w"])
    _, report = folded(build.model())
    assert "before opset 14" in why(report)


def test_statistics_of_each_position_in_opset_7_are_left_alone() -> None:
    original = conv_bn(opset=7)
    original.graph.node[1].attribute.append(helper.make_attribute("spatial", 0))
    model = ir.serde.deserialize_model(original)
    assert "spatial=0" in why(fold(model))


def test_computed_weights_and_statistics_are_named_as_the_reason() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    weight = build.node("Relu", [build.weights("raw", (4, 4, 3, 3))], "weight")
    y = build.batch_norm(build.node("Conv", [x, weight], "y1", name="conv"), "bn", 4)
    z = build.conv(y, "conv2", (4, 4), kernel=1)
    gamma = build.node("Abs", [build.weights("raw_gamma", (4,))], "gamma")
    build.output(
        build.node("BatchNormalization", [z, gamma, "bn_beta", "bn_mean", "bn_var"], "out", name="bn2"),
        ["N", 4, "h", "w"],
    )
    _, report = folded(build.model())
    assert why(report) == "the weight or bias of Conv conv is computed in the graph, not constant"
    assert why(report, "bn2").startswith("its scale, bias or statistics are computed")


def test_statistics_of_another_width_are_left_alone() -> None:
    for transposed in (False, True):
        original = conv_bn((4, 6), transposed=transposed)
        for tensor in original.graph.initializer:
            if tensor.name.startswith("bn_"):
                tensor.CopyFrom(numpy_helper.from_array(np.ones(5, np.float32), tensor.name))
        assert "5 channels" in why(fold(ir.serde.deserialize_model(original)))


def test_statistics_that_disagree_with_each_other_are_left_alone() -> None:
    original = conv_bn()
    for tensor in original.graph.initializer:
        if tensor.name == "bn_var":
            tensor.CopyFrom(numpy_helper.from_array(np.ones(5, np.float32), tensor.name))
    assert "different sizes" in why(fold(ir.serde.deserialize_model(original)))


def test_constant_nodes_as_weights_fold() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    weight = build.constant_node("weight", build.rng.standard_normal((4, 4, 3, 3)).astype(np.float32))
    y = build.batch_norm(build.node("Conv", [x, weight], "conv_out", name="conv"), "bn", 4)
    build.output(y, ["N", 4, "h", "w"])
    original = build.model()
    result, report = folded(original)
    assert node_types(result) == ["Conv"]
    assert report.changed[0].what == "Constant made an initializer"
    assert_same_outputs(original, result)


def test_initializers_listed_as_inputs_fold_and_are_no_inputs_any_more() -> None:
    original = conv_bn(opset=7)
    original.ir_version = 3
    for tensor in original.graph.initializer:
        original.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    result, _ = folded(original)
    assert [value.name for value in result.graph.input] == ["x"]
    assert node_types(result) == ["Conv", "Relu"]
    assert_same_outputs(original, result)


def test_initializers_that_nothing_reads_go() -> None:
    original = conv_bn()
    original.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "stray"))
    result, report = folded(original)
    assert {tensor.name for tensor in result.graph.initializer} == {"conv_weight", "conv/bias"}
    assert [change.what for change in report.changed if change.node == "stray"] == [
        "initializer removed: nothing reads it"
    ]


def test_symbolic_dimensions_and_names_survive() -> None:
    result, _ = folded(residual_classifier(widths=(4, 8), hw=(8, 8), batch="frames"))
    assert result.graph.input[0].name == "x"
    assert result.graph.output[0].name == "logits"
    for value in (result.graph.input[0], result.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "frames"


def test_a_conv_in_the_branch_of_an_if_folds_too() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    condition = build.node(
        "Greater", [build.node("ReduceSum", [x], "sum", keepdims=0), build.weights("zero", ())], "yes"
    )
    inner = GraphBuilder(seed=1)
    inner.batch_norm(inner.conv("x", "conv", (4, 4), pads=[1, 1, 1, 1]), "bn", 4)
    result_type = [helper.make_tensor_value_info("bn_out", onnx.TensorProto.FLOAT, ["N", 4, 6, 6])]
    then = helper.make_graph(inner.nodes, "then", [], result_type, inner.initializers)
    otherwise = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["kept"], name="keep")],
        "otherwise",
        [],
        [helper.make_tensor_value_info("kept", onnx.TensorProto.FLOAT, ["N", 4, 6, 6])],
    )
    build.output(build.node("If", [condition], "y", then_branch=then, else_branch=otherwise), ["N", 4, 6, 6])
    original = build.model()
    result, report = folded(original)
    assert [change.what for change in report.changed] == ["BatchNormalization folded into Conv conv"]
    for seed in range(4):
        assert_same_outputs(original, result, seed=seed)


@pytest.mark.parametrize("name", ["resnet20-cifar10", "resnet50-v1"])
def test_the_real_models_fold_completely(shared: Path, name: str) -> None:
    path = shared / "models" / f"{name}.onnx"
    model = io.load(path)
    report = fold(model)
    assert not report.skipped
    result = io.to_bytes(model)
    assert "BatchNormalization" not in node_types(onnx.ModelProto.FromString(result))
    side = 32 if "cifar" in name else 224
    feeds = {str(model.graph.inputs[0].name): np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)}
    expected, found = run(path, feeds, optimize=True), run(result, feeds, optimize=True)
    for output, value in expected.items():
        np.testing.assert_allclose(found[output], value, atol=1e-4, rtol=0)
