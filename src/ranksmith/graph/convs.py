"""One Conv of a graph: finding it, reading it as plain data, and seeing where it stands.

`auto_pad` is resolved here: with input length n, stride s and span d·(k − 1) + 1, SAME pads so that the
output has ⌈n/s⌉ positions; the odd one goes to the end (SAME_UPPER) or to the beginning (SAME_LOWER).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph.nodes import attribute_int, attribute_ints, attribute_str, constant_of, is_op, static_dims

__all__ = ["ConvContext", "Geometry", "conv_context", "conv_layer", "find_conv", "geometry", "input_hw"]

_FOLLOWERS = ("Add", "Relu", "Clip")


class Geometry(NamedTuple):
    """(vertical, horizontal) strides and dilations, and (top, left, bottom, right) pads of a 2-D Conv.

    `pads` is None where `auto_pad` depends on an input size that is unknown.
    """

    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int] | None


@dataclass(frozen=True)
class ConvContext:
    """Where a Conv stands in its graph.

    Attributes:
        input_value: the value it reads.
        output_value: the value it makes.
        input_hw: height and width of its input, None where unknown.
        followers: the Add, Relu and Clip nodes that consume it in turn, each the only consumer; an Add of a
            constant is not one.
    """

    input_value: str
    output_value: str
    input_hw: tuple[int, int] | None
    followers: tuple[str, ...]


def find_conv(model: ir.Model, node_name: str) -> ir.Node:
    """The Conv called `node_name`.

    Raises:
        NodeNotFoundError: there is no such node; the hint lists the nearest Convs.
        ModelError: the node is something else.
    """
    found = next((node for node in model.graph if node.name == node_name), None)
    if found is None:
        raise NodeNotFoundError(node_name, [node.name or "" for node in model.graph if is_op(node, "Conv")])
    if not is_op(found, "Conv"):
        raise ModelError(f"node {node_name!r} is a {found.op_type}, not a Conv", hint="`inspect` lists the Convs")
    return found


def conv_layer(model: ir.Model, node_name: str) -> ConvLayer:
    """A 2-D Conv as plain data: weights in float32 (float64 where the model's are), explicit pads.

    Raises:
        NodeNotFoundError: there is no such node.
        ModelError: it is not a 2-D Conv with constant weights, or `auto_pad` depends on an unknown size.
    """
    return _layer(find_conv(model, node_name))


def conv_context(model: ir.Model, node_name: str) -> ConvContext:
    """Where the Conv stands, and what follows it.

    Raises:
        NodeNotFoundError, ModelError: as `find_conv`.
    """
    node = find_conv(model, node_name)
    source, value = node.inputs[0], node.outputs[0]
    assert source is not None
    followers: list[str] = []
    last = value
    while not last.is_graph_output() and len(users := {user for user, _ in last.uses()}) == 1:
        follower = users.pop()
        if not is_op(follower, *_FOLLOWERS) or (is_op(follower, "Add") and any(map(constant_of, follower.inputs))):
            break
        followers.append(follower.op_type)
        last = follower.outputs[0]
    return ConvContext(source.name or "", value.name or "", input_hw(node), tuple(followers))


def input_hw(node: ir.Node) -> tuple[int, int] | None:
    """Height and width of what a 2-D Conv reads, None where unknown."""
    dims = static_dims(node.inputs[0])
    if dims is None or len(dims) != 4 or dims[2] is None or dims[3] is None:
        return None
    return dims[2], dims[3]


def geometry(node: ir.Node, kernel: tuple[int, int]) -> Geometry:
    """Where a 2-D Conv with a `kernel` of (height, width) looks."""
    strides = attribute_ints(node, "strides", (1, 1))
    dilations = attribute_ints(node, "dilations", (1, 1))
    mode = attribute_str(node, "auto_pad", "NOTSET")
    pads: tuple[int, ...] | None = (0, 0, 0, 0)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same_pads(node, kernel, strides, dilations, odd_at_end=mode == "SAME_UPPER")
    elif mode != "VALID":
        pads = attribute_ints(node, "pads", (0, 0, 0, 0))
    return Geometry(
        strides=(strides[0], strides[1]),
        dilations=(dilations[0], dilations[1]),
        pads=None if pads is None else (pads[0], pads[1], pads[2], pads[3]),
    )


def _same_pads(
    node: ir.Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, odd_at_end: bool
) -> tuple[int, ...] | None:
    size = input_hw(node)
    begins, ends = [], []
    for axis in (0, 1):
        span, stride = dilations[axis] * (kernel[axis] - 1) + 1, strides[axis]
        if size is None and stride != 1:
            return None
        # With stride 1 the total does not depend on the length.
        length = span if size is None else size[axis]
        total = max(0, (math.ceil(length / stride) - 1) * stride + span - length)
        begins.append(total // 2 if odd_at_end else total - total // 2)
        ends.append(total - begins[-1])
    return *begins, *ends


def _layer(node: ir.Node) -> ConvLayer:
    constants = [constant_of(value) for value in node.inputs[1:] if value is not None]
    if any(tensor is None for tensor in constants):
        raise ModelError(f"Conv {node.name!r} has a weight that the graph computes, so it cannot be decomposed")
    weight, *bias = [_as_float(tensor) for tensor in constants if tensor is not None]
    if weight.ndim != 4:
        raise ModelError(f"Conv {node.name!r} is {weight.ndim - 2}-D; only 2-D Convs are decomposed")
    where = geometry(node, (weight.shape[2], weight.shape[3]))
    if where.pads is None:
        raise ModelError(
            f"Conv {node.name!r} pads by auto_pad, and the size of its input is unknown",
            hint="export the model with a fixed image size",
        )
    return ConvLayer(
        weight=weight,
        bias=bias[0] if bias else None,
        strides=where.strides,
        pads=where.pads,
        dilations=where.dilations,
        group=attribute_int(node, "group", 1),
    )


def _as_float(tensor: ir.TensorProtocol) -> NDArray[np.floating]:
    array = tensor.numpy()
    return array if array.dtype == np.float64 else array.astype(np.float32)
