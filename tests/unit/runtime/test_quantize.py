from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph import io
from ranksmith.graph.fold import fold
from ranksmith.runtime import quantize as implementation
from ranksmith.runtime.quantize import quantizable_values, quantize
from tests.models import GraphBuilder, classifier, mlp, node_types, random_feeds, residual_classifier, run, save


def folded(model: onnx.ModelProto, folder: Path) -> bytes:
    loaded = io.load(save(model, folder / "model.onnx"))
    fold(loaded)
    return io.to_bytes(loaded)


def observed(model: bytes, feeds: dict[str, np.ndarray], *, keep: Sequence[str] = ()) -> dict[str, tuple[float, float]]:
    """The exact range of every value to quantize, on `feeds`."""
    values = quantizable_values(model, keep=keep)
    proto = onnx.load_model_from_string(model)
    made = {name for node in proto.graph.node for name in node.output}
    known = {output.name for output in proto.graph.output}
    for name in values:
        if name in made and name not in known:
            proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    seen = {**feeds, **run(proto, feeds)}
    return {name: (float(seen[name].min()), float(seen[name].max())) for name in values}


def relative_error(model: bytes, quantized: bytes, feeds: dict[str, np.ndarray]) -> float:
    (a,), (b,) = run(model, feeds).values(), run(quantized, feeds, optimize=True).values()
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def check(model: onnx.ModelProto, folder: Path, *, tolerance: float = 0.05) -> onnx.ModelProto:
    """Quantize `model` with exact ranges, compare, and return the result."""
    content, feeds = folded(model, folder), random_feeds(model, batch=4)
    quantized = quantize(content, observed(content, feeds))
    assert relative_error(content, quantized, feeds) < tolerance
    result = onnx.load_model_from_string(quantized)
    onnx.checker.check_model(result, full_check=True)
    return result


def test_answers_stay_close_and_every_layer_is_quantized(tmp_path: Path) -> None:
    original = residual_classifier()
    result = check(original, tmp_path)
    types = node_types(result)
    assert "Relu" not in types
    weights = [tensor for tensor in result.graph.initializer if len(tensor.dims) in (2, 4)]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}
    biases = [
        tensor for tensor in result.graph.initializer if tensor.data_type == onnx.TensorProto.INT32 and tensor.dims
    ]
    assert len([tensor for tensor in biases if "zero_point" not in tensor.name]) == types.count("Conv") + 1


def test_inputs_and_outputs_stay_as_they_were(tmp_path: Path) -> None:
    original = residual_classifier()
    result = check(original, tmp_path)
    for before, after in zip(
        [*original.graph.input, *original.graph.output], [*result.graph.input, *result.graph.output], strict=True
    ):
        assert before == after


def test_activations_are_uint8_and_weights_have_a_scale_a_channel(tmp_path: Path) -> None:
    result = check(classifier(), tmp_path)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    conv = next(node for node in result.graph.node if node.op_type == "Conv")
    made_by = {node.output[0]: node for node in result.graph.node}
    _, scale, zero_point = made_by[conv.input[1]].input
    assert list(tensors[scale].dims) == [16]
    assert tensors[zero_point].data_type == onnx.TensorProto.INT8
    assert tensors[made_by[conv.input[0]].input[2]].data_type == onnx.TensorProto.UINT8


def test_a_gemm_whose_result_nobody_quantizes_gives_float(tmp_path: Path) -> None:
    result = check(mlp(), tmp_path)
    made_by = {node.output[0]: node.op_type for node in result.graph.node}
    assert made_by["logits"] == "Gemm"
    # onnxruntime warns of each initializer that nothing reads.
    read = {name for node in result.graph.node for name in node.input}
    assert {tensor.name for tensor in result.graph.initializer} <= read
    assert node_types(result).count("Gemm") == 2
    assert made_by[result.graph.node[-1].input[0]] == "DequantizeLinear"


def test_the_answer_of_a_softmax_is_not_rounded(tmp_path: Path) -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 8])
    hidden = build.node("Gemm", [x, build.weights("w", (8, 5))], "hidden")
    build.output(build.node("Softmax", [hidden], "y"), ["N", 5])
    result = check(build.model(), tmp_path)
    assert node_types(result)[-2:] == ["Gemm", "Softmax"]


def test_kept_nodes_stay_float_without_further_ranges(tmp_path: Path) -> None:
    content = folded(residual_classifier(), tmp_path)
    feeds = random_feeds(residual_classifier(), batch=4)
    ranges = observed(content, feeds)
    for keep in (["stem"], ["block1/conv1", "block1/shortcut"], ["fc"], ["pool_GlobalAveragePool"], ["stem/relu_Relu"]):
        for known in (ranges, observed(content, feeds, keep=keep)):
            quantized = quantize(content, known, keep=keep)
            assert relative_error(content, quantized, feeds) < 0.05
        graph = onnx.load_model_from_string(quantized).graph
        made = {name for node in graph.node for name in node.output}
        for node in graph.node:
            if node.name in keep and node.op_type == "Conv":
                assert node.input[1] not in made


def test_a_kept_conv_before_a_pool_needs_no_further_ranges(tmp_path: Path) -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 3, 8, 8])
    x = build.node("Relu", [build.conv(x, "first", (3, 16), bias=True, pads=[1, 1, 1, 1])], "relu")
    x = build.node("MaxPool", [x], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    build.output(build.conv(x, "second", (16, 8), bias=True), None)
    content, feeds = folded(build.model(), tmp_path), random_feeds(build.model())
    assert "pooled" not in quantizable_values(content)
    quantized = quantize(content, observed(content, feeds), keep=["first"])
    assert relative_error(content, quantized, feeds) < 0.05


def test_clips_disappear_only_where_a_range_can_stand_for_them(tmp_path: Path) -> None:
    for bounds, gone in (((0.0, 0.5), True), ((0.25, 0.5), False)):
        build = GraphBuilder()
        x = build.conv(build.input("x", ["N", 3, 6, 6]), "conv", (3, 8), bias=True)
        limits = [build.constant(name, np.float32(value)) for name, value in zip(("low", "high"), bounds, strict=True)]
        x = build.node("Clip", [x, *limits], "clipped")
        build.output(build.conv(x, "after", (8, 8), bias=True), None)
        result = check(build.model(), tmp_path)
        assert ("Clip" not in node_types(result)) == gone


def test_ranges_beyond_a_relu_do_not_let_negative_values_through(tmp_path: Path) -> None:
    model = classifier()
    content, feeds = folded(model, tmp_path), random_feeds(model, batch=4)
    ranges = observed(content, feeds)
    ranges["relu"] = (-5.0, ranges["relu"][1])
    assert relative_error(content, quantize(content, ranges), feeds) < 0.05


def test_shared_weights_and_biases(tmp_path: Path) -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 8, 6, 6])
    weight, bias = build.weights("weight", (8, 8, 3, 3)), build.weights("bias", (8,), scale=0.1)
    a = build.node("Conv", [x, weight, bias], "a", name="one", pads=[1, 1, 1, 1])
    b = build.node("Conv", [build.node("Relu", [a], "r"), weight, bias], "b", name="two", pads=[1, 1, 1, 1])
    both = build.node("Concat", [a, b], "both", axis=1)
    build.output(both, ["N", 16, 6, 6])
    check(build.model(), tmp_path)


def test_constant_activations_and_dead_channels(tmp_path: Path) -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 3, 6, 6])
    dead = build.constant("dead", np.zeros((4, 3, 3, 3), np.float32))
    level = build.constant("level", np.array([0, 0, 0.5, 0.5], np.float32))
    x = build.node("Conv", [x, dead, level], "flat", name="dead_conv")
    build.output(build.conv(x, "after", (4, 8), bias=True), None)
    check(build.model(), tmp_path)


def test_older_opsets_are_brought_to_13(tmp_path: Path) -> None:
    result = check(residual_classifier(opset=9), tmp_path)
    assert [entry.version for entry in result.opset_import if not entry.domain] == [13]


def test_seven_bits_where_sums_would_saturate(tmp_path: Path) -> None:
    model = classifier()
    content, feeds = folded(model, tmp_path), random_feeds(model)
    ranges = observed(content, feeds)
    for reduce, largest in ((True, 64), (False, 127)):
        result = onnx.load_model_from_string(quantize(content, ranges, reduce_range=reduce))
        weights = [numpy_helper.to_array(tensor) for tensor in result.graph.initializer if len(tensor.dims) == 4]
        assert {int(np.abs(weight.astype(int)).max()) for weight in weights} == {largest}


def unusual_weights() -> onnx.ModelProto:
    """A channel of zeros, one too small for a scale, a bias that asks for a larger scale, and a weight read twice."""
    build = GraphBuilder()
    x = build.conv(build.input("x", ["N", 3, 6, 6]), "first", (3, 8), bias=True, pads=[1] * 4)
    x = build.conv(x, "second", (8, 8), bias=True, pads=[1] * 4)
    shared = build.weights("shared", (8, 8, 1, 1))
    x = build.node("Conv", [build.node("Conv", [x, shared], "once"), shared], "again")
    matrix = build.weights("matrix", (8, 8, 6, 6))
    x = build.node("MatMul", [build.node("Conv", [x, matrix], "whole", pads=[3, 3, 2, 2]), matrix], "product")
    build.output(x, None)
    model = build.model()
    weight, bias = (
        next(tensor for tensor in model.graph.initializer if tensor.name == name)
        for name in model.graph.node[0].input[1:]
    )
    values, offsets = numpy_helper.to_array(weight).copy(), numpy_helper.to_array(bias).copy()
    values[0], values[1], offsets[2] = 0.0, 1e-39, 1e9
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    bias.CopyFrom(numpy_helper.from_array(offsets, bias.name))
    return model


@pytest.mark.parametrize("keep", [(), ("second",)])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_the_scales_of_weights_are_those_that_onnxruntime_computes(
    monkeypatch: pytest.MonkeyPatch, reduce_range: bool, keep: Sequence[str]
) -> None:
    content = unusual_weights().SerializeToString()
    ranges = dict.fromkeys(quantizable_values(content), (-1e-3, 1e-3))
    handed = quantize(content, ranges, reduce_range=reduce_range, keep=keep)
    monkeypatch.setattr(implementation, "channel_scales", lambda proto, steps: {})
    assert quantize(content, ranges, reduce_range=reduce_range, keep=keep) == handed


def test_types_are_inferred_only_where_the_model_does_not_say_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = folded(residual_classifier(), tmp_path)
    silent = onnx.load_model_from_string(content)
    del silent.graph.value_info[:]
    values = quantizable_values(silent.SerializeToString())
    ranges = dict.fromkeys(values, (-1.0, 2.0))
    inferred = onnx.load_model_from_string(quantize(silent.SerializeToString(), ranges))
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", None)
    assert quantizable_values(content) == values
    stated = onnx.load_model_from_string(quantize(content, ranges))
    assert len(stated.graph.value_info) > len(inferred.graph.value_info) == 0
    del stated.graph.value_info[:]
    assert stated == inferred


def test_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    content = folded(residual_classifier(), tmp_path)
    (tmp_path / "folded.onnx").write_bytes(content)
    script = (
        "import sys, hashlib, pathlib; from ranksmith.runtime.quantize import *; "
        "m = pathlib.Path(sys.argv[1]).read_bytes(); "
        "print(hashlib.sha256(quantize(m, {v: (-1.0, 2.0) for v in quantizable_values(m)})).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "folded.onnx")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_nothing_is_printed_and_logging_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, filters = list(root.handlers), list(root.filters)
    check(residual_classifier(opset=9), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (root.handlers, root.filters) == (handlers, filters)


def test_an_unknown_kept_node_is_told_with_near_names(tmp_path: Path) -> None:
    content = folded(residual_classifier(), tmp_path)
    with pytest.raises(NodeNotFoundError, match="block1/convv1") as caught:
        quantize(content, {}, keep=["block1/convv1"])
    assert "block1/conv1" in (caught.value.hint or "")


def test_nothing_to_quantize_is_told() -> None:
    build = GraphBuilder()
    build.output(build.node("Relu", [build.input("x", ["N", 4])], "y"), ["N", 4])
    with pytest.raises(ModelError, match=r"nothing to quantize: the model has no Conv, Gemm or MatMul$"):
        quantizable_values(build.model().SerializeToString())
    with pytest.raises(ModelError, match="that is not kept"):
        quantize(classifier().SerializeToString(), {}, keep=["conv", "fc"])


def test_int8_and_half_precision_are_refused() -> None:
    content = classifier().SerializeToString()
    quantized = quantize(content, dict.fromkeys(quantizable_values(content), (-1.0, 1.0)))
    with pytest.raises(ModelError, match="quantized already"):
        quantizable_values(quantized)
    build = GraphBuilder(dtype=np.float16)
    build.output(build.conv(build.input("x", ["N", 3, 6, 6]), "conv", (3, 8)), None)
    with pytest.raises(ModelError, match="is float16"):
        quantizable_values(build.model().SerializeToString())


def test_bytes_that_are_no_model_are_told() -> None:
    with pytest.raises(ModelError, match="not an ONNX model"):
        quantizable_values(b"no model at all")


def test_weights_and_ranges_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = classifier()
    content = folded(model, tmp_path)
    ranges = dict.fromkeys(quantizable_values(content), (0.0, 1.0))
    with pytest.raises(ModelError, match="range of relu is nan"):
        quantize(content, {**ranges, "relu": (float("nan"), 1.0)})
    with pytest.raises(ModelError, match="not specified for param conv_out"):
        quantize(content, {name: span for name, span in ranges.items() if name != "relu"})
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    broken = numpy_helper.to_array(weight).copy()
    broken[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    with pytest.raises(ModelError, match=f"{weight.name} holds NaN"):
        quantizable_values(model.SerializeToString())


def test_an_opset_that_cannot_be_converted_is_refused() -> None:
    model = classifier()
    node = model.graph.node.add()
    node.op_type, node.domain = "Strange", "nowhere.example"
    node.input.append("logits")
    node.output.append("strange")
    model.opset_import[0].version = 11
    with pytest.raises(ModelError, match="opset 11 cannot be brought to 13"):
        quantizable_values(model.SerializeToString())
