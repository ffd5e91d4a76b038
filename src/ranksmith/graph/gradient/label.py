"""The gradient of −log p(label) at a classifier's output, for a label drawn from its own p in the graph.

At logits z it is p − onehot(label) with p = softmax(z); at probabilities it is −onehot(label)/p. The label is drawn by
inversion: it is the class c with p_0 + … + p_{c−1} ≤ u < p_0 + … + p_c for a number u of [0, 1). Drawn in the graph,
it needs no forward pass of its own.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ranksmith.graph.gradient.tape import Tape
from ranksmith.graph.nodes import is_op

__all__ = ["DRAW", "drawn_label"]

DRAW = "ranksmith_draw"
"""The input that takes u."""

_ROUNDING = 1e-5
"""Probabilities in float32 may add up to a little less than 1; u stays below that."""

_TRANSPARENT = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout")


def drawn_label(tape: Tape, output: ir.Value) -> ir.Value:
    """Append what makes the gradient at `output` [N, classes, …ones] from the new input `DRAW`."""
    assert output.dtype is not None
    shape = None if output.shape is None else ir.Shape([output.shape[0], *[1] * (len(output.shape) - 1)])
    draw = tape.input(DRAW, shape, output.type)
    u = tape.op("Mul", draw, tape.scalar(1 - _ROUNDING, output))
    given = _is_probability(output)
    p = output if given else tape.op("Softmax", output, axis=1)
    axis = tape.constant(np.asarray(1))
    passed = tape.op("Greater", tape.op("CumSum", p, axis), u)
    passed_before = tape.op("Greater", tape.op("CumSum", p, axis, exclusive=1), u)
    hit = tape.op("Cast", tape.op("Xor", passed, passed_before), to=output.dtype)
    if not given:
        return tape.op("Sub", p, hit)
    tiny = tape.scalar(float(np.finfo(output.dtype.numpy()).tiny), output)
    return tape.op("Neg", tape.op("Div", hit, tape.op("Max", p, tiny)))


def _is_probability(value: ir.Value) -> bool:
    producer = value.producer()
    while is_op(producer, *_TRANSPARENT):
        assert producer is not None
        source = producer.inputs[0]
        producer = None if source is None else source.producer()
    return is_op(producer, "Softmax")
