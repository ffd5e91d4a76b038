from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ranksmith.errors import NodeNotFoundError
from ranksmith.graph import io
from ranksmith.graph.rounding import round_conv
from ranksmith.runtime.session import open_session
from tests.models import residual_classifier


def _model() -> ir.Model:
    return io.from_bytes(residual_classifier().SerializeToString())


def _conv(model: ir.Model) -> str:
    return next(node.name or "" for node in model.graph if node.op_type == "Conv")


def test_one_conv_is_rounded_and_the_rest_stays() -> None:
    model, original = _model(), _model()
    name = _conv(model)
    round_conv(model, name, -3.0, 3.0)
    onnx.checker.check_model(onnx.load_model_from_string(io.to_bytes(model)))
    operators = [node.op_type for node in model.graph]
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 1
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32).clip(-3, 3)
    before, after = (
        open_session(io.to_bytes(one), threads=1).run({one.graph.inputs[0].name or "": images})[0]
        for one in (original, model)
    )
    error = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert 0 < error < 0.05


def test_a_constant_range_and_a_dead_channel_are_fine() -> None:
    model = _model()
    name = _conv(model)
    node = next(node for node in model.graph if node.name == name)
    value = node.inputs[1]
    assert value is not None
    assert value.const_value is not None
    weight = value.const_value.numpy().copy()
    weight[0] = 0
    value.const_value = ir.Tensor(weight, name=value.name)
    round_conv(model, name, 0.0, 0.0)
    images = np.zeros((1, 3, 16, 16), np.float32)
    answers = open_session(io.to_bytes(model), threads=1).run({model.graph.inputs[0].name or "": images})
    assert np.isfinite(answers[0]).all()


def test_an_unknown_node_is_named() -> None:
    with pytest.raises(NodeNotFoundError, match="nowhere"):
        round_conv(_model(), "nowhere", 0.0, 1.0)
