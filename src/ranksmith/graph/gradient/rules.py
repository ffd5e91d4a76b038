"""Which operators have a gradient."""

from __future__ import annotations

import onnx_ir as ir

from ranksmith.graph.gradient import elementwise, linear, pooling, shaping
from ranksmith.graph.gradient.tape import Rule
from ranksmith.graph.gradient.upgrade import OPSET
from ranksmith.graph.nodes import is_op

__all__ = ["find_rule"]

_RULES: dict[str, Rule] = {**elementwise.RULES, **linear.RULES, **pooling.RULES, **shaping.RULES}


def find_rule(node: ir.Node, opset: int) -> Rule | None:
    """The rule for `node`, None where none is known (or none for so old an `opset`)."""
    return _RULES[node.op_type] if opset >= OPSET and is_op(node, *_RULES) else None
