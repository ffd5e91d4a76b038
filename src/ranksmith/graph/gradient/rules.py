"""Which operators have a gradient, and from which opset on."""

from __future__ import annotations

import onnx_ir as ir

from ranksmith.graph.gradient import elementwise, linear, pooling, shaping
from ranksmith.graph.gradient.tape import Rule
from ranksmith.graph.nodes import is_op

__all__ = ["find_rule"]

_OLDEST_OPSET = 9
"""Older models lack the comparisons and shape operators that the rules are written in."""

_RULES: dict[str, Rule] = {**elementwise.RULES, **linear.RULES, **pooling.RULES, **shaping.RULES}

_SINCE = {
    "Clip": 11,  # its bounds were attributes
    "MaxPool": 11,  # ScatterElements
    "Pad": 11,  # its pads were attributes
    "Slice": 11,  # Range, ScatterElements
}


def find_rule(node: ir.Node, opset: int) -> Rule | None:
    """The rule for `node`, None where none is known."""
    if not is_op(node, *_RULES) or opset < _SINCE.get(node.op_type, _OLDEST_OPSET):
        return None
    return _RULES[node.op_type]
