from __future__ import annotations

import onnx
import onnx_ir as ir

from ranksmith.graph.precision import split_by_precision
from ranksmith.runtime.quantize import quantizable_values, quantize
from tests.models import GraphBuilder, residual_classifier


def split(model: onnx.ModelProto, **options: object) -> tuple[list[str | None], list[str | None]]:
    content = model.SerializeToString()
    ranges = dict.fromkeys(quantizable_values(content), (-1.0, 1.0))
    quantized = quantize(content, ranges, **options)  # type: ignore[arg-type]
    parts = split_by_precision(ir.serde.deserialize_model(onnx.load_model_from_string(quantized)))
    integer, floating = ([node.name for node in part] for part in parts)
    return integer, floating


def test_a_float_model_computes_in_float() -> None:
    integer, floating = split_by_precision(ir.serde.deserialize_model(residual_classifier()))
    assert (len(integer), len(floating)) == (0, 22)


def test_what_stands_between_pairs_is_computed_on_integers() -> None:
    integer, floating = split(residual_classifier(batch_norm=False))
    assert floating == []
    assert {"stem", "block1/shortcut", "fc"} < set(integer)


def test_a_kept_conv_and_its_relu_stay_float() -> None:
    integer, floating = split(residual_classifier(batch_norm=False), keep=["stem"])
    assert floating == ["stem", "stem/relu_Relu"]
    assert "block0/conv1" in integer


def test_what_makes_no_float_is_in_neither() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 3, 6, 6])
    y = build.conv(x, "conv", (3, 8), bias=True)
    build.node("Shape", [y], "shape")
    build.output(build.node("Exp", [y], "y"), None)
    assert split(build.model()) == (["conv"], ["y_Exp"])
