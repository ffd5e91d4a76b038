"""Gradients of Conv, BatchNormalization, Gemm, MatMul and Softmax with respect to their data.

A Conv y = W ∗ x with strides s, dilations d and pads p has dx = Wᵀ ∗ dy, a ConvTranspose with the same weight.
Along an axis it makes s·(m − 1) + d·(k − 1) + 1 − p − p' positions of the m of dy; `output_padding` adds those that
the strides passed over, (n + p + p' − d·(k − 1) − 1) mod s for an input of n.

With stride 1 the same is a Conv with W turned by 180° and its channels exchanged,

    W'[i, o, u, v] = W[o, i, k − 1 − u, k − 1 − v],   pads d·(k − 1) − p,

for which runtimes have far better kernels.

    BatchNormalization  dy·γ/√(σ² + ε)          Gemm     α·dy·Bᵀ
    Softmax             y·(dy − Σ dy·y)         MatMul   dy·Bᵀ
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.graph.convs import Geometry, geometry
from ranksmith.graph.gradient.tape import Parts, Rule, Tape
from ranksmith.graph.nodes import attribute_float, attribute_int, constant_of, static_dims

__all__ = ["RULES", "transposed_conv"]


def _conv(tape: Tape, node: ir.Node) -> Parts:
    x, weight = node.inputs[0], constant_of(node.inputs[1])
    assert x is not None
    if weight is None or len(weight.shape) != 4 or any(tape.wants(value) for value in node.inputs[2:] if value):
        return None
    array = weight.numpy()
    where = geometry(node, (array.shape[2], array.shape[3]))
    if where.pads is None:
        return None
    dy = tape.gradient(node.outputs[0])
    return [transposed_conv(tape, dy, x, array, where, attribute_int(node, "group", 1), weight_value=node.inputs[1])]


def transposed_conv(
    tape: Tape,
    dy: ir.Value,
    x: ir.Value,
    weight: NDArray[Any],
    where: Geometry,
    group: int,
    *,
    weight_value: ir.Value | None = None,
) -> ir.Value:
    """The gradient of x under a Conv with `weight` [O, I/g, kh, kw] whose `pads` are known.

    Args:
        weight_value: `weight` in the graph, where it is there already.
    """
    kernel = weight.shape[2:]
    reach = [d * (k - 1) for d, k in zip(where.dilations, kernel, strict=True)]
    assert where.pads is not None
    turned_pads = [whole - pad for whole, pad in zip([*reach, *reach], where.pads, strict=True)]
    shared: dict[str, Any] = {"kernel_shape": list(kernel), "dilations": list(where.dilations), "group": group}
    if where.strides == (1, 1) and min(turned_pads) >= 0:
        return tape.op("Conv", dy, tape.constant(_turned(weight, group)), pads=turned_pads, **shared)

    size = (static_dims(x) or [None] * 4)[2:]
    extra = [
        stride - 1 if length is None else (length + begin + end - span - 1) % stride
        for stride, length, begin, end, span in zip(
            where.strides, size, where.pads[:2], where.pads[2:], reach, strict=True
        )
    ]
    back = tape.op(
        "ConvTranspose",
        dy,
        weight_value if weight_value is not None else tape.constant(weight),
        strides=list(where.strides),
        pads=list(where.pads),
        output_padding=extra,
        **shared,
    )
    if None not in size or where.strides == (1, 1):
        return back
    # Made as long as it can be; what is too much stands at the end.
    ends = tape.op("Slice", tape.shape(x), tape.ints(2), tape.ints(4))
    return tape.op("Slice", back, tape.ints(0, 0), ends, tape.ints(2, 3))


def _turned(weight: NDArray[Any], group: int) -> NDArray[Any]:
    """W' [I, O/g, kh, kw] of W [O, I/g, kh, kw]."""
    outside, inside, *kernel = weight.shape
    parts = weight.reshape(group, outside // group, inside, *kernel)
    return parts.transpose(0, 2, 1, 3, 4).reshape(group * inside, outside // group, *kernel)[:, :, ::-1, ::-1]


def _batch_normalization(tape: Tape, node: ir.Node) -> Parts:
    constants = [constant_of(value) for value in node.inputs[1:5]]
    trains = attribute_int(node, "training_mode", 0) or any(value.name for value in node.outputs[1:])
    y = node.outputs[0]
    if trains or y.dtype is None or y.shape is None or any(tensor is None for tensor in constants):
        return None
    gamma, _, _, variance = (np.asarray(tensor.numpy(), np.float64) for tensor in constants if tensor is not None)
    scale = gamma / np.sqrt(variance + attribute_float(node, "epsilon", 1e-5))
    shaped = scale.astype(y.dtype.numpy()).reshape(-1, *[1] * (len(y.shape) - 2))
    return [tape.op("Mul", tape.gradient(y), tape.constant(shaped))]


def _gemm(tape: Tape, node: ir.Node) -> Parts:
    weight = node.inputs[1]
    if (
        constant_of(weight) is None
        or attribute_int(node, "transA", 0)
        or any(map(tape.wants, filter(None, node.inputs[2:])))
    ):
        return None
    alpha, turned = attribute_float(node, "alpha", 1.0), attribute_int(node, "transB", 0)
    return [tape.op("Gemm", tape.gradient(node.outputs[0]), weight, alpha=alpha, transB=1 - turned)]


def _matmul(tape: Tape, node: ir.Node) -> Parts:
    weight = constant_of(node.inputs[1])
    if weight is None or len(weight.shape) != 2:
        return None
    return [tape.op("MatMul", tape.gradient(node.outputs[0]), tape.constant(weight.numpy().T))]


def _softmax(tape: Tape, node: ir.Node) -> Parts:
    y = node.outputs[0]
    dy = tape.gradient(y)
    mean = tape.sum(tape.op("Mul", dy, y), [attribute_int(node, "axis", -1)], keepdims=True)
    return [tape.op("Mul", y, tape.op("Sub", dy, mean))]


RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Softmax": _softmax,
}
