"""Gradients of operators that work element by element, with dy the gradient of y.

    Relu       dy·[y > 0]                  Sigmoid      dy·y·(1 − y)
    LeakyRelu  dy·(α + (1 − α)·[x > 0])    Tanh         dy·(1 − y²)
    Clip       dy·[low < y < high]         HardSigmoid  dy·α·[0 < y < 1]
    a + b      dy, dy                      HardSwish    dy·[x > −3]·(h + [x < 3]·x/6),  h = clip(x/6 + ½, 0, 1)
    a − b      dy, −dy                     a · b        dy·b, dy·a
    a / b      dy/b, −dy·y/b

Masks are taken from y where they can be, because x is fused away when the model is run. At kinks the one-sided
derivative with the smaller magnitude is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ranksmith.graph.gradient.tape import Parts, Rule, Tape
from ranksmith.graph.nodes import attribute_float, constant_of

__all__ = ["RULES"]


def _operands(tape: Tape, node: ir.Node, parts: Sequence[ir.Value | None]) -> Parts:
    """Bring the gradient of each operand to its shape."""
    fitted: list[ir.Value | None] = []
    for value, part in zip(node.inputs, parts, strict=True):
        if value is None or part is None or not tape.wants(value):
            fitted.append(None)
            continue
        reduced = tape.unbroadcast(part, node.outputs[0], value)
        if reduced is None:
            return None
        fitted.append(reduced)
    return fitted


def _relu(tape: Tape, node: ir.Node) -> Parts:
    y = node.outputs[0]
    return [tape.masked(tape.gradient(y), tape.op("Greater", y, tape.scalar(0, y)), y)]


def _leaky_relu(tape: Tape, node: ir.Node) -> Parts:
    (x,), dy = _given(node, 1), tape.gradient(node.outputs[0])
    scaled = tape.op("Mul", dy, tape.scalar(attribute_float(node, "alpha", 0.01), x))
    return [tape.op("Where", tape.op("Greater", x, tape.scalar(0, x)), dy, scaled)]


def _clip(tape: Tape, node: ir.Node) -> Parts:
    y = node.outputs[0]
    gradient = tape.gradient(y)
    for bound, compare in zip(node.inputs[1:], ("Greater", "Less"), strict=False):
        if bound is None:
            continue
        if constant_of(bound) is None:
            return None
        gradient = tape.masked(gradient, tape.op(compare, y, bound), y)
    return [gradient]


def _sigmoid(tape: Tape, node: ir.Node) -> Parts:
    y = node.outputs[0]
    slope = tape.op("Mul", y, tape.op("Sub", tape.scalar(1, y), y))
    return [tape.op("Mul", tape.gradient(y), slope)]


def _tanh(tape: Tape, node: ir.Node) -> Parts:
    y = node.outputs[0]
    slope = tape.op("Sub", tape.scalar(1, y), tape.op("Mul", y, y))
    return [tape.op("Mul", tape.gradient(y), slope)]


def _hard_sigmoid(tape: Tape, node: ir.Node) -> Parts:
    y = node.outputs[0]
    inside = tape.op("And", tape.op("Greater", y, tape.scalar(0, y)), tape.op("Less", y, tape.scalar(1, y)))
    scaled = tape.op("Mul", tape.gradient(y), tape.scalar(attribute_float(node, "alpha", 0.2), y))
    return [tape.masked(scaled, inside, y)]


def _hard_swish(tape: Tape, node: ir.Node) -> Parts:
    (x,), dy = _given(node, 1), tape.gradient(node.outputs[0])
    gate = tape.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    inside = tape.op("And", tape.op("Greater", x, tape.scalar(-3, x)), tape.op("Less", x, tape.scalar(3, x)))
    ramp = tape.masked(tape.op("Mul", x, tape.scalar(1 / 6, x)), inside, x)
    return [tape.op("Mul", dy, tape.op("Add", gate, ramp))]


def _add(tape: Tape, node: ir.Node) -> Parts:
    dy = tape.gradient(node.outputs[0])
    return _operands(tape, node, [dy] * len(node.inputs))


def _sub(tape: Tape, node: ir.Node) -> Parts:
    (_, b), dy = _given(node, 2), tape.gradient(node.outputs[0])
    return _operands(tape, node, [dy, tape.op("Neg", dy) if tape.wants(b) else None])


def _mul(tape: Tape, node: ir.Node) -> Parts:
    (a, b), dy = _given(node, 2), tape.gradient(node.outputs[0])
    return _operands(
        tape,
        node,
        [tape.op("Mul", dy, other) if tape.wants(value) else None for value, other in ((a, b), (b, a))],
    )


def _div(tape: Tape, node: ir.Node) -> Parts:
    (_, b), y = _given(node, 2), node.outputs[0]
    quotient = tape.op("Div", tape.gradient(y), b)
    return _operands(tape, node, [quotient, tape.op("Neg", tape.op("Mul", quotient, y)) if tape.wants(b) else None])


def _identity(tape: Tape, node: ir.Node) -> Parts:
    return [tape.gradient(node.outputs[0])]


def _dropout(tape: Tape, node: ir.Node) -> Parts:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and ((known := constant_of(training)) is None or known.numpy().any()):
        return None
    return _identity(tape, node)


def _given(node: ir.Node, count: int) -> list[ir.Value]:
    """The first `count` inputs, which the operator must have."""
    values = [value for value in node.inputs[:count] if value is not None]
    assert len(values) == count
    return values


RULES: dict[str, Rule] = {
    "Add": _add,
    "Clip": _clip,
    "Div": _div,
    "Dropout": _dropout,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _identity,
    "LeakyRelu": _leaky_relu,
    "Mul": _mul,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Sub": _sub,
    "Sum": _add,
    "Tanh": _tanh,
}
