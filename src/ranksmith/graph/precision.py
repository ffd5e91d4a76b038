"""Which operators of a QDQ model a runtime computes on integers.

It does so where a node stands between pairs: what it reads comes from DequantizeLinear, its weight too, and what
it makes goes to QuantizeLinear. A Gemm or MatMul may give its result in float.
"""

from __future__ import annotations

import onnx_ir as ir

from ranksmith.graph.nodes import is_op
from ranksmith.graph.normalize import normalize

__all__ = ["split_by_precision"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def split_by_precision(model: ir.Model) -> tuple[list[ir.Node], list[ir.Node]]:
    """(computed on integers, computed in float), in graph order; normalizes `model`.

    Nodes that make no float, such as those that compute shapes, are in neither.
    """
    normalize(model)
    integer: list[ir.Node] = []
    floating: list[ir.Node] = []
    for node in model.graph:
        if is_op(node, "QuantizeLinear", "DequantizeLinear") or node.outputs[0].dtype not in _FLOATS:
            continue
        (integer if _is_integer(node) else floating).append(node)
    return integer, floating


def _is_integer(node: ir.Node) -> bool:
    weighted = is_op(node, "Conv", "Gemm", "MatMul")
    if not all(_dequantized(value) for value in node.inputs[: 2 if weighted else 1]):
        return False
    readers = [user for value in node.outputs for user, _ in value.uses()]
    quantized = bool(readers) and all(is_op(user, "QuantizeLinear") for user in readers)
    return quantized or is_op(node, "Gemm", "MatMul")


def _dequantized(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and is_op(producer, "DequantizeLinear")
