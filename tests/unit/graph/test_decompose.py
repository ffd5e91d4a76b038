from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.convolution import ConvLayer
from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.fold import fold
from ranksmith.graph.normalize import normalize
from ranksmith.graph.query import conv_infos, conv_layer
from ranksmith.graph.verify import verify
from tests.models import GraphBuilder, random_feeds, residual_classifier, run, single_conv


def normalized(proto: onnx.ModelProto) -> ir.Model:
    model = ir.serde.deserialize_model(proto)
    normalize(model)
    return model


def exact_chain(layer: ConvLayer) -> tuple[ConvLayer, ConvLayer]:
    """The layer without its bias, then an identity that adds it."""
    bare = ConvLayer(layer.weight, None, layer.strides, layer.pads, layer.dilations, layer.group)
    identity = np.eye(layer.out_channels, dtype=np.float32)[:, :, None, None]
    return bare, ConvLayer(identity, layer.bias)


@settings(deadline=None, max_examples=30)
@given(
    group=st.sampled_from([1, 2]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.lists(st.integers(1, 2), min_size=2, max_size=2),
    dilations=st.lists(st.integers(1, 2), min_size=2, max_size=2),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    bias=st.booleans(),
    opset=st.sampled_from([7, 11, 13, 17, 22]),
)
def test_an_exact_chain_keeps_the_outputs_of_any_conv(
    group: int, kernel: tuple[int, int], opset: int, **conv: Any
) -> None:
    proto = single_conv((4, 6), group=group, kernel=kernel, opset=opset, **conv)
    model = normalized(proto)
    replace_conv(model, "conv", exact_chain(conv_layer(model, "conv")))
    verify(model)
    feeds = random_feeds(proto)
    np.testing.assert_allclose(run(io.to_bytes(model), feeds)["conv_out"], run(proto, feeds)["conv_out"], atol=1e-5)


def test_names_follow_the_convention_and_the_rest_keeps_its_own() -> None:
    model = normalized(residual_classifier(batch_norm=False))
    change = replace_conv(model, "block1/conv2", exact_chain(conv_layer(model, "block1/conv2")))
    assert change.what == "Conv 32×32×3×3 became 32×32×3×3 → 32×32×1×1"
    first, second = [node for node in model.graph if (node.name or "").startswith("block1/conv2")]
    assert (first.name, second.name) == ("block1/conv2/1of2", "block1/conv2/2of2")
    assert first.outputs[0].name == "block1/conv2_out/1of2"
    assert first.outputs[0].shape == ir.Shape(["N", 32, 8, 8])
    assert second.outputs[0].name == "block1/conv2_out"
    assert [user.name for user, _ in second.outputs[0].uses()] == ["block1/add_Add"]
    assert not {"block1/conv2_weight", "block1/conv2_bias"} & set(model.graph.initializers)


def test_a_chain_may_end_the_model_under_its_output_s_name() -> None:
    model = normalized(single_conv())
    layer = conv_layer(model, "conv")
    replace_conv(model, "conv", exact_chain(layer))
    assert [value.name for value in model.graph.outputs] == ["conv_out"]


def test_a_chain_of_one_keeps_the_node_s_name() -> None:
    model = normalized(residual_classifier(batch_norm=False))
    replace_conv(model, "stem", [conv_layer(model, "stem")])
    assert conv_infos(model)[0].node == "stem"


def test_the_same_conv_can_be_decomposed_again() -> None:
    proto = residual_classifier(batch_norm=False)
    model = normalized(proto)
    replace_conv(model, "block0/conv1", exact_chain(conv_layer(model, "block0/conv1")))
    replace_conv(model, "block0/conv1/1of2", exact_chain(conv_layer(model, "block0/conv1/1of2")))
    verify(model)
    names = [node.name for node in model.graph]
    assert "block0/conv1/1of2/2of2" in names
    feeds = random_feeds(proto)
    np.testing.assert_allclose(run(io.to_bytes(model), feeds)["logits"], run(proto, feeds)["logits"], atol=1e-5)


def test_a_name_that_is_taken_is_not_taken_twice() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    y = build.conv(x, "conv", (4, 4))
    build.output(build.node("Relu", [y], "conv_out/1of2", name="conv/1of2"), ["N", 4, 4, 4])
    model = normalized(build.model())
    replace_conv(model, "conv", exact_chain(conv_layer(model, "conv")))
    verify(model)
    assert len({node.name for node in model.graph}) == 3


def test_the_other_reader_of_a_shared_weight_keeps_it() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    y = build.conv(x, "first", (4, 4), pads=[1, 1, 1, 1])
    build.output(build.node("Conv", [y, "first_weight"], "y", name="second"), ["N", 4, 4, 4])
    proto = build.model()
    model = normalized(proto)
    replace_conv(model, "first", exact_chain(conv_layer(model, "first")))
    verify(model)
    assert "first_weight" in model.graph.initializers
    feeds = random_feeds(proto)
    np.testing.assert_allclose(run(io.to_bytes(model), feeds)["y"], run(proto, feeds)["y"], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_factors_are_stored_in_the_weight_s_own_type(dtype: Any) -> None:
    build = GraphBuilder(dtype=dtype)
    build.output(build.conv(build.input("x", ["N", 4, 6, 6]), "conv", (4, 4), bias=True), ["N", 4, 4, 4])
    proto = build.model()
    model = normalized(proto)
    replace_conv(model, "conv", exact_chain(conv_layer(model, "conv")))
    verify(model)
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.from_numpy(np.dtype(dtype))}
    if dtype == np.float16:  # onnxruntime has no Conv in double precision
        feeds = random_feeds(proto)
        np.testing.assert_allclose(run(io.to_bytes(model), feeds)["conv_out"], run(proto, feeds)["conv_out"], atol=1e-2)


def test_a_factor_that_overflows_half_precision_is_refused_and_nothing_changes() -> None:
    build = GraphBuilder(dtype=np.float16)
    build.output(build.conv(build.input("x", ["N", 4, 6, 6]), "conv", (4, 4)), ["N", 4, 4, 4])
    model = normalized(build.model())
    before = io.to_bytes(model)
    bare, identity = exact_chain(conv_layer(model, "conv"))
    with pytest.raises(ModelError, match="not be finite in float16"):
        replace_conv(model, "conv", [bare, ConvLayer(identity.weight * 1e6)])
    assert io.to_bytes(model) == before


def test_same_padding_becomes_explicit() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 7, 8])
    y = build.conv(x, "conv", (4, 4), auto_pad="SAME_UPPER", strides=[2, 2])
    build.output(y, ["N", 4, 4, 4])
    proto = build.model()
    model = normalized(proto)
    replace_conv(model, "conv", exact_chain(conv_layer(model, "conv")))
    feeds = random_feeds(proto)
    np.testing.assert_allclose(run(io.to_bytes(model), feeds)["conv_out"], run(proto, feeds)["conv_out"], atol=1e-5)


def test_without_an_image_size_the_value_between_has_a_symbolic_one() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, "h", "w"])
    build.output(build.conv(x, "conv", (4, 4)), ["N", 4, "a", "b"])
    model = normalized(build.model())
    replace_conv(model, "conv", exact_chain(conv_layer(model, "conv")))
    verify(model)
    shape = next(iter(model.graph)).outputs[0].shape
    assert shape is not None
    assert list(shape)[:2] == [ir.SymbolicDim("N"), 4]


def test_chains_that_do_not_fit_are_our_own_mistake() -> None:
    model = normalized(single_conv((4, 6)))
    layer = conv_layer(model, "conv")
    for chain in ([], [layer, layer], [ConvLayer(layer.weight[:3], None)]):
        with pytest.raises(ValueError, match="chain"):
            replace_conv(model, "conv", chain)


def test_nodes_that_cannot_be_decomposed_are_refused() -> None:
    model = normalized(residual_classifier())
    with pytest.raises(NodeNotFoundError):
        replace_conv(model, "nowhere", [])
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    weight = build.node("Relu", [build.weights("raw", (4, 4, 3, 3))], "weight")
    build.output(build.node("Conv", [x, weight], "y", name="conv"), ["N", 4, 4, 4])
    with pytest.raises(ModelError, match="graph computes"):
        replace_conv(normalized(build.model()), "conv", [])


def test_folding_then_decomposing_a_residual_net_keeps_its_logits() -> None:
    proto = residual_classifier()
    model = ir.serde.deserialize_model(proto)
    fold(model)
    for found in conv_infos(model):
        replace_conv(model, found.node, exact_chain(conv_layer(model, found.node)))
    verify(model)
    feeds = random_feeds(proto)
    np.testing.assert_allclose(run(io.to_bytes(model), feeds)["logits"], run(proto, feeds)["logits"], atol=1e-4)
