"""Gradients of pooling and of means.

The mean over m of n elements gives each of them dy/m; how many went into one is the ratio of the two sizes, which
also holds where a size is known only at run time.

An AveragePool is a depthwise Conv with weights 1/(kh·kw), or 1/(elements inside the image) where pads do not count.

A MaxPool's gradient goes to the element that won. The operator itself tells which, as indices into the flattened
input; windows may overlap, so several gradients may have to be added to one element. ScatterElements adds only from
opset 16 on, so windows ⌈span/stride⌉ apart, which share nothing, are scattered together and the results added.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.graph.convs import geometry
from ranksmith.graph.gradient.linear import transposed_conv
from ranksmith.graph.gradient.tape import Parts, Rule, Tape
from ranksmith.graph.nodes import attribute_int, attribute_ints, constant_of, static_dims

__all__ = ["RULES"]


def _global_average_pool(tape: Tape, node: ir.Node) -> Parts:
    return [_spread(tape, node, tape.gradient(node.outputs[0]))]


def _reduce_mean(tape: Tape, node: ir.Node) -> Parts:
    return _reduce(tape, node, mean=True)


def _reduce_sum(tape: Tape, node: ir.Node) -> Parts:
    return _reduce(tape, node, mean=False)


def _reduce(tape: Tape, node: ir.Node, *, mean: bool) -> Parts:
    x, dy = node.inputs[0], tape.gradient(node.outputs[0])
    assert x is not None
    axes: tuple[int, ...] | None = attribute_ints(node, "axes", ())
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = constant_of(node.inputs[1])
        axes = None if constant is None else tuple(constant.numpy().tolist())
    if axes is None or x.shape is None:
        return None
    if not axes and attribute_int(node, "noop_with_empty_axes", 0):
        return [dy]
    if not attribute_int(node, "keepdims", 1):
        # The shape of x with 1 where it was summed over, made at run time.
        kept = np.ones(len(x.shape), np.int64)
        kept[list(axes) or slice(None)] = 0
        shape = tape.op("Mul", tape.shape(x), tape.constant(kept))
        dy = tape.op("Reshape", dy, tape.op("Add", shape, tape.constant(1 - kept)))
    return [_spread(tape, node, dy) if mean else tape.op("Expand", dy, tape.shape(x))]


def _spread(tape: Tape, node: ir.Node, dy: ir.Value) -> ir.Value:
    """`dy` over all elements that went into it, in equal parts."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    sizes = [tape.op("Cast", tape.op("Size", value), to=y.dtype) for value in (y, x)]
    scaled = tape.op("Mul", dy, tape.op("Div", *sizes))
    return tape.op("Expand", scaled, tape.shape(x))


def _average_pool(tape: Tape, node: ir.Node) -> Parts:
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    kernel, dims, made = attribute_ints(node, "kernel_shape", ()), static_dims(x), static_dims(y)
    if len(kernel) != 2 or dims is None or dims[1] is None or y.dtype is None or attribute_int(node, "ceil_mode", 0):
        return None
    where = geometry(node, (kernel[0], kernel[1]))
    if where.pads is None:
        return None
    dy, channels = tape.gradient(y), dims[1]
    weight = np.full((channels, 1, *kernel), 1 / np.prod(kernel), y.dtype.numpy())
    if any(where.pads) and not attribute_int(node, "count_include_pad", 0):
        if dims[2] is None or dims[3] is None or made is None or made[2] is None or made[3] is None:
            return None
        counts = [
            _inside(length, count, *rest)
            for length, count, *rest in zip(
                dims[2:], made[2:], kernel, where.strides, where.dilations, where.pads[:2], strict=True
            )
        ]
        correction = np.prod(kernel) / np.outer(*counts)
        dy = tape.op("Mul", dy, tape.constant(correction.astype(y.dtype.numpy())))
    return [transposed_conv(tape, dy, x, weight, where, channels)]


def _inside(length: int, count: int, kernel: int, stride: int, dilation: int, pad: int) -> NDArray[np.int64]:
    """How many positions of each of `count` windows lie inside the image, along one axis."""
    position = np.arange(count)[:, None] * stride - pad + np.arange(kernel) * dilation
    inside: NDArray[np.int64] = ((position >= 0) & (position < length)).sum(axis=1)
    return inside


def _max_pool(tape: Tape, node: ir.Node) -> Parts:
    x, y = node.inputs[0], node.outputs[0]
    kernel = attribute_ints(node, "kernel_shape", ())
    if x is None or len(kernel) != 2 or attribute_int(node, "storage_order", 0):
        return None
    where = geometry(node, (kernel[0], kernel[1]))
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    again = tape.op("MaxPool", x, outputs=2, **attributes)
    producer = again.producer()
    assert producer is not None
    indices, dy = producer.outputs[1], tape.gradient(y)
    spans = [d * (k - 1) + 1 for d, k in zip(where.dilations, kernel, strict=True)]
    apart = [-(-span // stride) for span, stride in zip(spans, where.strides, strict=True)]
    zeros = tape.flat_zeros(x)
    total: ir.Value | None = None
    for first in itertools.product(*map(range, apart)):
        part = [_every(tape, value, first, apart) for value in (indices, dy)]
        scattered = tape.op("ScatterElements", zeros, *part, axis=0)
        total = scattered if total is None else tape.op("Add", total, scattered)
    assert total is not None
    return [tape.reshape(total, x)]


def _every(tape: Tape, value: ir.Value, first: tuple[int, ...], apart: list[int]) -> ir.Value:
    """The windows `apart` from each other, from `first` on, flattened."""
    far = tape.ints(2**31, 2**31)
    taken = (
        tape.op("Slice", value, tape.ints(*first), far, tape.ints(2, 3), tape.ints(*apart)) if max(apart) > 1 else value
    )
    return tape.op("Reshape", taken, tape.ints(-1))


RULES: dict[str, Rule] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "MaxPool": _max_pool,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
}
