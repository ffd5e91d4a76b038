from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph import io, query
from ranksmith.graph.fold import fold
from ranksmith.graph.normalize import normalize
from ranksmith.results import ConvInfo
from tests.models import GraphBuilder, mlp, random_feeds, residual_classifier, run, single_conv


def normalized(proto: onnx.ModelProto) -> ir.Model:
    model = ir.serde.deserialize_model(proto)
    normalize(model)
    return model


def info(channels: tuple[int, int], **conv: Any) -> ConvInfo:
    return query.conv_infos(normalized(single_conv(channels, **conv)))[0]


def test_a_conv_is_described_with_its_cost_and_ranks() -> None:
    found = info((16, 32), strides=[2, 2], bias=True)
    assert found == ConvInfo(
        node="conv",
        weight_shape=[32, 16, 3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        dilations=[1, 1],
        group=1,
        input_shape=["N", 16, 8, 8],
        output_shape=["N", 32, "h", "w"],
        macs=32 * 16 * 9 * 16,
        params=32 * 16 * 9 + 32,
        full_rank=32,
        break_even_rank=(144 * 32) // (144 + 32),
        candidate=True,
        reason="candidate",
    )


@pytest.mark.parametrize(
    ("channels", "conv", "reason"),
    [
        ((3, 64), {}, "kept-stem"),
        ((32, 32), {"group": 32}, "kept-depthwise"),
        ((32, 64), {"group": 32}, "kept-depthwise"),
        ((8, 32), {}, "kept-small"),
        ((32, 8), {}, "kept-small"),
        ((32, 32), {"group": 4}, "candidate"),
        ((16, 16), {"kernel": 1, "pads": [0, 0, 0, 0]}, "candidate"),
    ],
)
def test_the_reason_says_why_a_conv_is_kept(channels: tuple[int, int], conv: dict[str, Any], reason: str) -> None:
    found = info(channels, **conv)
    assert found.reason == reason
    assert found.candidate == (reason == "candidate")


def test_ranks_of_a_grouped_conv_are_per_group() -> None:
    found = info((32, 64), group=4, kernel=1, pads=[0, 0, 0, 0])
    assert found.full_rank == 8
    assert found.break_even_rank == (8 * 16) // (8 + 16)


def test_convs_of_other_dimensions_and_computed_weights_are_kept() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 16, 8])
    y = build.node("Conv", [x, build.weights("w", (16, 16, 3))], "y", name="flat")
    x2 = build.input("x2", ["N", 16, 8, 8])
    weight = build.node("Relu", [build.weights("raw", (16, 16, 3, 3))], "weight")
    z = build.node("Conv", [x2, weight], "z", name="computed")
    build.output(y, ["N", 16, 6])
    build.output(z, ["N", 16, 6, 6])
    model = normalized(build.model())
    assert [(found.node, found.reason) for found in query.conv_infos(model)] == [
        ("flat", "kept-not-2d"),
        ("computed", "kept-dynamic-weight"),
    ]
    with pytest.raises(ModelError, match="1-D"):
        query.conv_layer(model, "flat")
    with pytest.raises(ModelError, match="graph computes"):
        query.conv_layer(model, "computed")


def test_a_weight_of_unknown_shape_is_described_without_numbers() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 16, 8, 8])
    build.input("w", ["O", "I", "kh", "kw"])
    build.output(build.node("Conv", [x, "w"], "y", name="conv"), ["N", "O", "h", "w2"])
    found = query.conv_infos(normalized(build.model()))[0]
    assert (found.weight_shape, found.macs, found.params, found.full_rank) == ([], None, 0, 0)


def test_a_shared_weight_is_kept() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 16, 8, 8])
    y = build.conv(x, "first", (16, 16), pads=[1, 1, 1, 1])
    build.output(build.node("Conv", [y, "first_weight"], "y", name="second"), ["N", 16, "h", "w"])
    assert [found.reason for found in query.conv_infos(normalized(build.model()))] == ["kept-shared-weight"] * 2


def test_costs_are_for_one_image_whatever_the_batch() -> None:
    for batch in ("N", 4):
        model = normalized(residual_classifier(widths=(16,), hw=(8, 8), batch_norm=False, batch=batch))
        macs, params = query.cost(model)
        convs = 64 * (16 * 27 + 2 * 16 * 144)
        assert macs == convs + 160
        assert params == 16 * 27 + 2 * 16 * 144 + 3 * 16 + 160 + 10


def test_transposed_convs_and_matrix_products_count() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 5, 5])
    y = build.conv(x, "up", (4, 6), transposed=True, strides=[2, 2])
    z = build.node("MatMul", [build.node("Flatten", [y], "flat"), build.weights("w", (726, 7))], "z")
    build.output(build.node("Gemm", [z, build.weights("v", (7, 2))], "out"), ["N", 2])
    assert query.cost(normalized(build.model()))[0] == 25 * 4 * 6 * 9 + 726 * 7 + 7 * 2


def test_without_an_image_size_the_cost_is_unknown() -> None:
    proto = single_conv()
    for axis, name in ((2, "h"), (3, "w")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    model = normalized(proto)
    assert query.cost(model)[0] is None
    assert query.conv_infos(model)[0].candidate
    assert query.conv_context(model, "conv").input_hw is None


def test_a_layer_is_read_with_its_geometry() -> None:
    proto = single_conv((4, 6), bias=True, pads=[0, 1, 2, 3], strides=[1, 2], dilations=[2, 1], group=2)
    layer = query.conv_layer(normalized(proto), "conv")
    assert (layer.pads, layer.strides, layer.dilations, layer.group) == ((0, 1, 2, 3), (1, 2), (2, 1), 2)
    assert layer.weight.dtype == np.float32
    assert layer.bias is not None


@pytest.mark.parametrize(("dtype", "read"), [(np.float16, np.float32), (np.float64, np.float64)])
def test_weights_are_read_in_a_type_that_can_be_computed_with(dtype: Any, read: Any) -> None:
    build = GraphBuilder(dtype=dtype)
    build.output(build.conv(build.input("x", ["N", 4, 8, 8]), "conv", (4, 4)), ["N", 4, 6, 6])
    assert query.conv_layer(normalized(build.model()), "conv").weight.dtype == read


@settings(deadline=None, max_examples=40)
@given(
    mode=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    hw=st.tuples(st.integers(5, 9), st.integers(5, 9)),
)
def test_auto_pad_becomes_the_pads_that_the_runtime_uses(
    mode: str, kernel: tuple[int, int], strides: tuple[int, int], hw: tuple[int, int]
) -> None:
    build = GraphBuilder()
    build.output(
        build.conv(
            build.input("x", ["N", 2, *hw]), "conv", (2, 3), kernel=kernel, strides=list(strides), auto_pad=mode
        ),
        ["N", 3, "h", "w"],
    )
    proto = build.model()
    layer = query.conv_layer(normalized(proto), "conv")
    explicit = onnx.ModelProto()
    explicit.CopyFrom(proto)
    attributes = explicit.graph.node[0].attribute
    attributes.remove(next(attribute for attribute in attributes if attribute.name == "auto_pad"))
    attributes.append(helper.make_attribute("pads", list(layer.pads)))
    feeds = random_feeds(proto)
    expected = run(proto, feeds)["conv_out"]
    np.testing.assert_array_equal(run(explicit, feeds)["conv_out"], expected)
    assert layer.output_size(*hw) == expected.shape[2:]


def test_auto_pad_without_a_size_is_resolved_only_where_it_can_be() -> None:
    for strides, reason in (([1, 1], "candidate"), ([2, 2], "kept-unknown-shape")):
        build = GraphBuilder()
        x = build.input("x", ["N", 16, "h", "w"])
        build.output(build.conv(x, "conv", (16, 16), auto_pad="SAME_UPPER", strides=strides), ["N", 16, "a", "b"])
        model = normalized(build.model())
        assert query.conv_infos(model)[0].reason == reason
    with pytest.raises(ModelError, match="auto_pad"):
        query.conv_layer(model, "conv")


def test_a_node_that_does_not_exist_is_answered_with_the_nearest_convs() -> None:
    model = normalized(residual_classifier())
    with pytest.raises(NodeNotFoundError) as caught:
        query.find_conv(model, "block1/conv3")
    assert caught.value.hint is not None
    assert "block1/conv1" in caught.value.hint
    with pytest.raises(ModelError, match="is a Gemm, not a Conv"):
        query.find_conv(model, "fc")


def test_the_context_names_what_follows_as_long_as_it_is_alone() -> None:
    model = ir.serde.deserialize_model(residual_classifier())
    fold(model)
    first = query.conv_context(model, "block1/conv1")
    assert (first.input_value, first.output_value) == ("block0/relu2", "block1/conv1/bn_out")
    assert (first.input_hw, first.followers) == ((16, 16), ("Relu",))
    assert query.conv_context(model, "block1/conv2").followers == ("Add", "Relu")
    assert query.conv_context(model, "stem").followers == ("Relu",)


def test_adding_a_constant_is_no_residual() -> None:
    build = GraphBuilder()
    y = build.conv(build.input("x", ["N", 16, 8, 8]), "conv", (16, 16))
    build.output(build.node("Add", [y, build.weights("offset", (16, 1, 1))], "y"), ["N", 16, 6, 6])
    assert query.conv_context(normalized(build.model()), "conv").followers == ()


def test_an_inspection_of_a_model_without_convs() -> None:
    found = query.inspect(normalized(mlp()), "mlp", 123)
    assert (found.model, found.bytes, found.opset, found.nodes) == ("mlp", 123, 17, 3)
    assert (found.convs, found.operators) == ([], {"Gemm": 2, "Relu": 1})
    assert (found.macs, found.params) == (8 * 16 + 16 * 4, 8 * 16 + 16 * 4)
    assert found.inputs[0].shape == ["N", 8]
    assert found.inputs[0].dtype == "float32"


def test_values_of_unknown_type_and_shape_are_said_to_be() -> None:
    value = ir.Value(name="v")
    graph = ir.Graph([value], [value], nodes=[], name="g", opset_imports={"": 17})
    model = ir.Model(graph, ir_version=8)
    found = query.output_infos(model)[0]
    assert (found.dtype, found.shape) == ("unknown", None)


def test_the_real_models_have_the_costs_they_are_known_for(shared: Path) -> None:
    model = io.load(shared / "models" / "resnet50-v1.onnx")
    normalize(model)
    macs, _ = query.cost(model)
    assert macs is not None
    assert round(macs / 1e9, 2) == 3.86
    cifar = io.load(shared / "models" / "resnet20-cifar10.onnx")
    fold(cifar)
    convs = query.conv_infos(cifar)
    assert len(convs) == 19
    assert all(found.macs is not None for found in convs)
    assert [found.reason for found in convs] == ["kept-stem", *["candidate"] * 18]
