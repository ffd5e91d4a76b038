"""One Conv as int8 would compute it, the rest of the model in float: what quantizing this layer alone does.

The weight is rounded to 255 levels per output channel, symmetric; what the Conv reads passes a QuantizeLinear and a
DequantizeLinear of 256 levels. Sums and biases are int32 in a quantized model, so nothing more is lost.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ranksmith.errors import ModelError
from ranksmith.graph.convs import find_conv
from ranksmith.graph.nodes import constant_of, free_name, set_weight, taken_names

__all__ = ["round_conv"]

_LEVELS, _WEIGHT_LEVELS = 255, 127


def round_conv(model: ir.Model, node_name: str, low: float, high: float) -> None:
    """Round the weight and the input of the Conv called `node_name`, in place.

    Args:
        low, high: the range of what it reads; widened to hold zero.

    Raises:
        NodeNotFoundError: there is no such node.
        ModelError: it is not a Conv with constant weights.
    """
    node = find_conv(model, node_name)
    tensor, source = constant_of(node.inputs[1]), node.inputs[0]
    if tensor is None or source is None:
        raise ModelError(f"Conv {node_name!r} has a weight that the graph computes, so it cannot be rounded")
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    taken = taken_names(graph)
    weight = tensor.numpy().astype(np.float32)
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = (np.where(largest > 0, largest, 1.0) / _WEIGHT_LEVELS).reshape(-1, *[1] * (weight.ndim - 1))
    set_weight(node, 1, np.round(weight / scale) * scale, tensor.dtype, f"{node_name}/weight", taken)

    low, high = min(low, 0.0), max(high, 0.0)
    step = np.float32((high - low) / _LEVELS or 1.0)
    constants = [
        _constant(graph, np.asarray(step), f"{node_name}/scale", taken),
        _constant(graph, np.asarray(round(-low / float(step)), np.uint8), f"{node_name}/zero", taken),
    ]
    quantized = ir.node("QuantizeLinear", [source, *constants], name=free_name(f"{node_name}/quantize", taken))
    quantized.outputs[0].name = free_name(f"{node_name}/quantized", taken)
    restored = ir.node(
        "DequantizeLinear", [quantized.outputs[0], *constants], name=free_name(f"{node_name}/dequantize", taken)
    )
    restored.outputs[0].name = free_name(f"{node_name}/rounded", taken)
    restored.outputs[0].shape, restored.outputs[0].type = source.shape, source.type
    graph.insert_before(node, [quantized, restored])
    node.replace_input_with(0, restored.outputs[0])


def _constant(graph: ir.Graph, array: np.ndarray, wanted: str, taken: set[str]) -> ir.Value:
    name = free_name(wanted, taken)
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
