from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from ranksmith.errors import ModelError
from ranksmith.graph import io
from ranksmith.graph.normalize import normalize
from ranksmith.graph.verify import verify
from tests.models import GraphBuilder, conv_bn, random_feeds, residual_classifier, run


def normalized(proto: onnx.ModelProto) -> ir.Model:
    model = ir.serde.deserialize_model(proto)
    normalize(model)
    verify(model)
    return model


def test_only_true_inputs_stay_inputs() -> None:
    proto = conv_bn()
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    proto.graph.input.append(helper.make_tensor_value_info("unused", onnx.TensorProto.FLOAT, [1]))
    report = normalize(model := ir.serde.deserialize_model(proto))
    assert [value.name for value in model.graph.inputs] == ["x", "unused"]
    assert {change.node for change in report.changed} == {tensor.name for tensor in proto.graph.initializer}


def test_every_form_of_constant_becomes_an_initializer() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4])
    forms = {"value_float": 2.0, "value_floats": [1.0, 2.0, 3.0, 4.0]}
    for name, value in forms.items():
        build.nodes.append(helper.make_node("Constant", [], [name], **{name: value}))
        x = build.node("Mul", [x, name], f"times_{name}")
    build.nodes.append(helper.make_node("Constant", [], ["shape"], value_ints=[-1, 2]))
    build.output(build.node("Reshape", [x, "shape"], "y"), ["M", 2])
    proto = build.model()
    model = normalized(proto)
    assert not [node for node in model.graph if node.op_type == "Constant"]
    feeds = random_feeds(proto)
    np.testing.assert_array_equal(run(io.to_bytes(model), feeds)["y"], run(proto, feeds)["y"])


def test_unnamed_and_repeated_node_names_become_unique_and_stay_so() -> None:
    proto = residual_classifier(widths=(4, 8), hw=(8, 8))
    for index, node in enumerate(proto.graph.node):
        node.name = "" if index % 2 else "same"
    names = [node.name for node in normalized(proto).graph]
    assert len(set(names)) == len(names)
    assert names[0] == "same"
    assert names[1] == proto.graph.node[1].output[0]
    assert names == [node.name for node in normalized(proto).graph]


def test_a_made_up_name_gives_way_to_a_real_one() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N"])
    build.node("Relu", [x], "y", name="")
    build.output(build.node("Abs", ["y"], "z", name="y"), ["N"])
    assert [node.name for node in normalized(build.model()).graph] == ["y_2", "y"]


def test_shapes_are_inferred_and_symbols_kept() -> None:
    model = normalized(residual_classifier(batch="frames"))
    shapes = {node.name: node.outputs[0].shape for node in model.graph}
    assert shapes["block1/conv2"] == ir.Shape(["frames", 32, 8, 8])
    assert model.graph.outputs[0].shape == ir.Shape(["frames", 10])


def test_an_invented_symbol_is_not_passed_on_as_the_model_s() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    flat = build.node("Reshape", [x, build.constant("shape", np.array([-1, 12], np.int64))], "flat")
    build.output(build.node("Relu", [flat], "y"))
    model = normalized(build.model())
    assert model.graph.outputs[0].shape == ir.Shape([None, 12])


def test_what_the_model_declares_of_its_outputs_stays() -> None:
    proto = conv_bn((4, 6), pads=[1, 1, 1, 1])
    declared = [dim.dim_param or dim.dim_value for dim in proto.graph.output[0].type.tensor_type.shape.dim]
    assert normalized(proto).graph.outputs[0].shape == ir.Shape(declared)


def test_a_model_that_inference_chokes_on_is_left_without_shapes() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4])
    build.output(build.node("NoSuchOperator", [x], "y"), ["N", 4])
    proto = build.model()
    proto.opset_import[0].version = 999
    model = ir.serde.deserialize_model(proto)
    normalize(model)
    assert [node.op_type for node in model.graph] == ["NoSuchOperator"]


def test_nodes_come_in_an_order_that_can_be_run() -> None:
    proto = conv_bn()
    nodes = list(proto.graph.node)
    proto.graph.ClearField("node")
    proto.graph.node.extend(reversed(nodes))
    assert [node.op_type for node in normalized(proto).graph] == ["Conv", "BatchNormalization", "Relu"]


def test_a_cycle_is_refused() -> None:
    proto = conv_bn()
    proto.graph.node[0].input[0] = "y"
    with pytest.raises(ModelError, match="cycle"):
        normalize(ir.serde.deserialize_model(proto))


def test_functions_are_inlined_so_that_their_convs_are_seen() -> None:
    body = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    opsets = [helper.make_opsetid("", 17)]
    build = GraphBuilder()
    x = build.input("x", ["N", 4, 6, 6])
    build.node("Block", [x, build.weights("w", (4, 4, 3, 3))], "z", name="block", domain="local")
    build.output("z", ["N", 4, 4, 4])
    proto = build.model()
    proto.functions.append(helper.make_function("local", "Block", ["x", "w"], ["y"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    feeds = random_feeds(proto)
    expected = run(proto, feeds)["z"]
    model = normalized(proto)
    assert [node.op_type for node in model.graph] == ["Conv", "Relu"]
    assert not model.functions
    np.testing.assert_array_equal(run(io.to_bytes(model), feeds)["z"], expected)
