"""What is in a model: its inputs and outputs, its Convs, what they cost, and where each one stands.

Nothing here changes the model. Shapes and names are best after `normalize`.

Cost in multiply-adds for one image: O·(I/g)·kh·kw·(output positions) for a Conv, rows·K·N for a Gemm or
MatMul. An output-side pair of rank r costs r·(I/g·kh·kw + O/g) a position and group against
I/g·kh·kw·O/g, so it breaks even at r* = I/g·kh·kw·O/g / (I/g·kh·kw + O/g).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ranksmith.convolution import ConvLayer
from ranksmith.graph.convs import ConvContext, conv_context, conv_layer, find_conv, geometry, input_hw
from ranksmith.graph.nodes import attribute_int, attribute_ints, constant_of, dtype_name, is_op, opset_of, static_dims
from ranksmith.results import ConvInfo, Inspection, ValueInfo

__all__ = [
    "ConvContext",
    "conv_context",
    "conv_infos",
    "conv_layer",
    "cost",
    "find_conv",
    "input_infos",
    "inspect",
    "output_infos",
]

_STEM_CHANNELS = 4
"""A Conv that reads this many channels or fewer sees the image itself."""

_SMALL_CHANNELS = 16
"""Narrower layers than one block of channels have nothing to gain."""


def inspect(model: ir.Model, name: str, size_bytes: int) -> Inspection:
    """Everything `ranksmith inspect` shows of a model called `name` of `size_bytes` on disk."""
    nodes = list(model.graph.all_nodes())
    macs, params = cost(model)
    return Inspection(
        model=name,
        bytes=size_bytes,
        opset=opset_of(model),
        inputs=input_infos(model),
        outputs=output_infos(model),
        nodes=len(nodes),
        operators=dict(Counter(node.op_type for node in nodes).most_common()),
        params=params,
        macs=macs,
        convs=conv_infos(model),
    )


def input_infos(model: ir.Model) -> list[ValueInfo]:
    """The true inputs: those that are not constants."""
    return [_value_info(value) for value in model.graph.inputs if not value.is_initializer()]


def output_infos(model: ir.Model) -> list[ValueInfo]:
    return [_value_info(value) for value in model.graph.outputs]


def conv_infos(model: ir.Model) -> list[ConvInfo]:
    """Every Conv of the main graph, in order, and whether it is a candidate for decomposition or why not."""
    return [_conv_info(node) for node in model.graph if is_op(node, "Conv")]


def cost(model: ir.Model) -> tuple[int | None, int]:
    """(multiply-adds for one image, number of parameters) of the whole model.

    Convs (transposed ones too), Gemm and MatMul count; the first is None where a shape is unknown.
    """
    counts = [_macs(node) for node in model.graph]
    macs = None if any(count is None for count in counts) else sum(count or 0 for count in counts)
    params = sum(
        value.const_value.size
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and _is_parameter(value.const_value.dtype)
    )
    return macs, params


def _is_parameter(dtype: ir.DataType) -> bool:
    """Weights are floating point or a few bits wide; int64 and the like are shapes, axes and indices."""
    return dtype.is_floating_point() or (dtype.bitwidth <= 8 and dtype != ir.DataType.BOOL)


def _value_info(value: ir.Value) -> ValueInfo:
    return ValueInfo(name=value.name or "", dtype=dtype_name(value.dtype), shape=_shape(value))


def _shape(value: ir.Value | None) -> list[int | str] | None:
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else (dim.value or "?") for dim in value.shape]


def _conv_info(node: ir.Node) -> ConvInfo:
    shape = _weight_dims(node)
    group = attribute_int(node, "group", 1)
    axes = max(0, len(shape) - 2)
    strides, dilations = (list(attribute_ints(node, name, (1,) * axes)) for name in ("strides", "dilations"))
    pads: Sequence[int] | None = attribute_ints(node, "pads", (0,) * 2 * axes)
    if len(shape) == 4:
        pads = geometry(node, (shape[2], shape[3])).pads
    inside, outside = (math.prod(shape[1:]), shape[0] // group) if shape else (0, 0)
    break_even = inside * outside // (inside + outside) if inside + outside else 0
    reason = _reason(node, shape, group, break_even, known_pads=pads is not None)
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    return ConvInfo(
        node=node.name or "",
        weight_shape=shape,
        strides=strides,
        pads=list(pads or ()),
        dilations=dilations,
        group=group,
        input_shape=_shape(node.inputs[0]),
        output_shape=_shape(node.outputs[0]),
        macs=_macs(node),
        params=math.prod(shape) + shape[0] * has_bias if shape else 0,
        full_rank=min(inside, outside),
        break_even_rank=break_even,
        candidate=reason == "candidate",
        reason=reason,
    )


def _weight_dims(node: ir.Node) -> list[int]:
    """The shape of the second input; empty where any of it is unknown."""
    tensor = constant_of(node.inputs[1])
    dims = list(tensor.shape.numpy()) if tensor is not None else static_dims(node.inputs[1]) or []
    return [] if any(dim is None for dim in dims) else [dim or 0 for dim in dims]


def _reason(node: ir.Node, shape: list[int], group: int, break_even: int, *, known_pads: bool) -> str:
    weight = node.inputs[1]
    assert weight is not None
    if any(value is not None and constant_of(value) is None for value in node.inputs[1:]):
        return "kept-dynamic-weight"
    if len(shape) != 4:
        return "kept-not-2d"
    in_channels = shape[1] * group
    if group > 1 and group == in_channels:
        return "kept-depthwise"
    if in_channels <= _STEM_CHANNELS:
        return "kept-stem"
    if len({user for user, _ in weight.uses()}) > 1:
        return "kept-shared-weight"
    if min(in_channels, shape[0]) < _SMALL_CHANNELS or break_even < 1:
        return "kept-small"
    return "candidate" if known_pads else "kept-unknown-shape"


def _macs(node: ir.Node) -> int | None:
    """Multiply-adds of one node for one image; 0 for an operator that has none, None where unknown."""
    if not is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    positions = static_dims(node.inputs[0] if is_op(node, "ConvTranspose") else node.outputs[0])
    weight = _weight_dims(node)
    if is_op(node, "Conv") and len(weight) == 4 and (size := input_hw(node)) is not None:
        # From the input, since a model may declare the size of its output symbolic.
        where = geometry(node, (weight[2], weight[3]))
        assert where.pads is not None
        shaped = np.broadcast_to(np.float32(0), weight)
        return ConvLayer(shaped, None, where.strides, where.pads, where.dilations).macs(*size)
    if positions is None or not weight:
        return None
    if is_op(node, "Conv", "ConvTranspose"):
        counted = [*positions[2:], *weight]
    else:
        # [batch, …, N] from K = the dimension that is summed over, the last but one unless transposed.
        summed = -1 if attribute_int(node, "transB", 0) or len(weight) == 1 else -2
        counted = [*positions[1:], weight[summed]]
    return None if any(dim is None for dim in counted) else math.prod(dim or 0 for dim in counted)
