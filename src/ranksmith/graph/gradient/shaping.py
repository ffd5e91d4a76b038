"""Gradients of operators that move elements without changing them: each goes back where it came from.

Slice is undone by slicing the flat positions of x the same way and scattering to them; Pad by padding with the
negative pads, which cuts off what was added (and puts zeros where something was cut off).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ranksmith.graph.gradient.tape import Parts, Rule, Tape
from ranksmith.graph.nodes import attribute_int, attribute_ints, attribute_str

__all__ = ["RULES"]


def _reshape(tape: Tape, node: ir.Node) -> Parts:
    x = node.inputs[0]
    assert x is not None
    return [tape.reshape(tape.gradient(node.outputs[0]), x)]


def _transpose(tape: Tape, node: ir.Node) -> Parts:
    dy, order = tape.gradient(node.outputs[0]), attribute_ints(node, "perm", ())
    if not order:
        return [tape.op("Transpose", dy)]
    return [tape.op("Transpose", dy, perm=np.argsort(order).tolist())]


def _concat(tape: Tape, node: ir.Node) -> Parts:
    dy, axis = tape.gradient(node.outputs[0]), attribute_int(node, "axis", 1)
    parts: list[ir.Value | None] = []
    begin = tape.ints(0)
    for value in node.inputs:
        assert value is not None
        length = tape.op("Gather", tape.shape(value), tape.ints(axis))
        end = tape.op("Add", begin, length)
        parts.append(tape.op("Slice", dy, begin, end, tape.ints(axis)) if tape.wants(value) else None)
        begin = end
    return parts


def _split(tape: Tape, node: ir.Node) -> Parts:
    parts = [tape.gradient(value) for value in node.outputs]
    return [tape.op("Concat", *parts, axis=attribute_int(node, "axis", 0))]


def _pad(tape: Tape, node: ir.Node) -> Parts:
    _, pads, *rest = node.inputs
    filling = rest[0] if rest else None
    if attribute_str(node, "mode", "constant") != "constant" or (filling is not None and tape.wants(filling)):
        return None
    inputs = [tape.op("Neg", pads), *([None, *rest[1:]] if rest[1:] else [])]
    return [tape.op("Pad", tape.gradient(node.outputs[0]), *inputs)]


def _slice(tape: Tape, node: ir.Node) -> Parts:
    x = node.inputs[0]
    assert x is not None
    positions = tape.op("Range", tape.constant(np.asarray(0)), tape.op("Size", x), tape.constant(np.asarray(1)))
    taken = tape.op("Slice", tape.reshape(positions, x), *node.inputs[1:])
    flat = [tape.op("Reshape", value, tape.ints(-1)) for value in (taken, tape.gradient(node.outputs[0]))]
    scattered = tape.op("ScatterElements", tape.flat_zeros(x), *flat, axis=0)
    return [tape.reshape(scattered, x)]


RULES: dict[str, Rule] = {
    "Concat": _concat,
    "Flatten": _reshape,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
