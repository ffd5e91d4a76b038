"""Which operators have a gradient, and from which opset on."""

from __future__ import annotations

import onnx_ir as ir

from ranksmith.graph.gradient import elementwise, linear, pooling, shaping
from ranksmith.graph.gradient.tape import Rule
from ranksmith.graph.nodes import is_op

__all__ = ["find_rule"]

_OLDEST_OPSET = 11
"""Older models lack ScatterElements, Range and bounds that are inputs, in which the rules are written."""

_RULES: dict[str, Rule] = {**elementwise.RULES, **linear.RULES, **pooling.RULES, **shaping.RULES}


def find_rule(node: ir.Node, opset: int) -> Rule | None:
    """The rule for `node`, None where none is known."""
    return _RULES[node.op_type] if opset >= _OLDEST_OPSET and is_op(node, *_RULES) else None
