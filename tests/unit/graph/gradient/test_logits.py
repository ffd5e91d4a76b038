"""Where the logits are."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from ranksmith.errors import NodeNotFoundError
from ranksmith.graph.gradient import logits_of
from tests.models import residual_classifier


def ending_in(*op_types: str) -> ir.Model:
    model = residual_classifier(widths=(4,), classes=5)
    before = "logits"
    for op_type in op_types:
        model.graph.node.append(onnx.helper.make_node(op_type, [before], [op_type.lower()], op_type))
        before = op_type.lower()
    model.graph.output[0].name = before
    return ir.from_proto(model)


@pytest.mark.parametrize(
    ("op_types", "expected"),
    [
        ((), "logits"),
        (("Softmax",), "logits"),
        (("Softmax", "Identity", "Flatten"), "logits"),
        (("Identity",), "identity"),
        (("Softmax", "Relu"), "relu"),
    ],
)
def test_they_are_what_the_last_softmax_reads(op_types: tuple[str, ...], expected: str) -> None:
    model = ending_in(*op_types)
    assert logits_of(model, model.graph.outputs[0].name or "") == expected


def test_an_unknown_value_is_named() -> None:
    with pytest.raises(NodeNotFoundError, match="nowhere"):
        logits_of(ending_in(), "nowhere")
