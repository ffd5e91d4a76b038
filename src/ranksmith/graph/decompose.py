"""Replace one Conv by a chain of Convs.

The chain's mathematics is `ranksmith.lowrank`'s; here it only becomes nodes. Nothing stands between the last
Conv of the chain and what read the original's output, so a runtime still fuses the Add or the activation
that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from ranksmith.convolution import ConvLayer
from ranksmith.errors import ModelError
from ranksmith.graph.convs import find_conv, input_hw
from ranksmith.graph.nodes import constant_of, dtype_name, free_name, set_weight, taken_names
from ranksmith.results import Change

__all__ = ["replace_conv"]


def replace_conv(model: ir.Model, node_name: str, chain: Sequence[ConvLayer]) -> Change:
    """Put `chain`, applied first to last, in the place of the Conv called `node_name`, in place.

    The nodes are called `<node>/1of2`, `<node>/2of2`; the value between them `<output>/1of2`; the last
    makes the original's output under its name. A chain of one keeps the node's name. Weights are stored in
    the original's type. The original weight goes unless another node reads it.

    Raises:
        NodeNotFoundError: there is no such node.
        ModelError: it is not a Conv with constant weights, or a factor does not fit its type (float16).
        ValueError: the chain does not fit the Conv.
    """
    node = find_conv(model, node_name)
    weight = constant_of(node.inputs[1])
    if weight is None:
        raise ModelError(f"Conv {node_name!r} has a weight that the graph computes, so it cannot be decomposed")
    _check_chain(chain, node_name, weight)
    _check_range(chain, node_name, weight.dtype)
    graph, output = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)
    taken = taken_names(graph)
    nodes = _chain_nodes(node, chain, taken)
    last = nodes[-1].outputs[0]
    last.shape, last.type = output.shape, output.type
    last.metadata_props.update(output.metadata_props)
    graph.insert_before(node, nodes)
    for made, layer in zip(nodes, chain, strict=True):
        set_weight(made, 1, layer.weight, weight.dtype, f"{made.name}/weight", taken)
        if layer.bias is not None:
            set_weight(made, 2, layer.bias, weight.dtype, f"{made.name}/bias", taken)
    old = [value for value in node.inputs[1:] if value is not None]
    output.replace_all_uses_with(last, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    last.name = output.name
    for value in old:
        if value.is_initializer() and not value.uses() and not value.is_graph_output():
            graph.initializers.pop(value.name or "", None)
    shapes = " → ".join("×".join(map(str, layer.weight.shape)) for layer in chain)
    original = "×".join(map(str, weight.shape.numpy()))
    return Change(node=node_name, what=f"Conv {original} became {shapes}")


def _check_chain(chain: Sequence[ConvLayer], node_name: str, weight: ir.TensorProtocol) -> None:
    if not chain:
        raise ValueError(f"an empty chain cannot replace {node_name!r}")
    for before, after in pairwise(chain):
        if before.out_channels != after.in_channels:
            raise ValueError(
                f"a chain for {node_name!r} goes from {before.out_channels} to {after.in_channels} channels"
            )
    if chain[-1].out_channels != weight.shape[0]:
        raise ValueError(f"a chain for {node_name!r} ends in {chain[-1].out_channels} channels, not {weight.shape[0]}")


def _check_range(chain: Sequence[ConvLayer], node_name: str, dtype: ir.DataType) -> None:
    for layer in chain:
        for array in (layer.weight, layer.bias):
            if array is None:
                continue
            with np.errstate(over="ignore"):
                stored = array.astype(dtype.numpy()).astype(np.float64)
            if not np.isfinite(stored).all():
                raise ModelError(f"a factor of {node_name!r} would not be finite in {dtype_name(dtype)}")


def _chain_nodes(node: ir.Node, chain: Sequence[ConvLayer], taken: set[str]) -> list[ir.Node]:
    """The chain's nodes without their weights; every value but the last has its final name."""
    source, output = node.inputs[0], node.outputs[0]
    size = input_hw(node)
    batch = source.shape[0] if source is not None and source.shape is not None else None
    nodes: list[ir.Node] = []
    for index, layer in enumerate(chain, start=1):
        suffix = f"/{index}of{len(chain)}"
        made = ir.node(
            "Conv",
            [source, None],
            {
                "dilations": list(layer.dilations),
                "group": layer.group,
                "kernel_shape": list(layer.kernel),
                "pads": list(layer.pads),
                "strides": list(layer.strides),
            },
            domain=node.domain,
            name=free_name(f"{node.name}{suffix}", taken) if len(chain) > 1 else node.name,
        )
        value = made.outputs[0]
        value.name = free_name(f"{output.name}{suffix}", taken)
        value.type = output.type
        size = layer.output_size(*size) if size is not None else None
        value.shape = ir.Shape([batch, layer.out_channels, *(size or (None, None))])
        nodes.append(made)
        source = value
    return nodes
