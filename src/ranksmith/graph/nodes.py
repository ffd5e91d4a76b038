"""What every pass asks of nodes and values: which operator, which constant, which attribute, which free name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = [
    "attribute_float",
    "attribute_int",
    "attribute_ints",
    "attribute_str",
    "constant_of",
    "dtype_name",
    "free_name",
    "is_op",
    "opset_of",
    "quiet_logger",
    "reads",
    "set_weight",
    "static_dims",
    "taken_names",
]

_DEFAULT_DOMAINS = ("", "ai.onnx")


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether `node` is one of these operators of ONNX's own domain."""
    return node is not None and node.domain in _DEFAULT_DOMAINS and node.op_type in op_types


def opset_of(model: ir.Model) -> int:
    """The version of ONNX's own operators; 0 for a model that uses none of them."""
    imports = model.graph.opset_imports
    return next((imports[domain] for domain in _DEFAULT_DOMAINS if domain in imports), 0)


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a value that cannot change from run to run, else None.

    An initializer that is also a graph input is not constant: `normalize` promotes it first.
    """
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    producer = value.producer()
    if producer is not None and is_op(producer, "Constant") and "value" in producer.attributes:
        return producer.attributes["value"].as_tensor()
    return None


def attribute_int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def attribute_float(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def attribute_ints(node: ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return tuple(default) if attribute is None else tuple(attribute.as_ints())


def attribute_str(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def static_dims(value: ir.Value | None) -> list[int | None] | None:
    """The dimensions of a value, None for a symbolic one; None where even their number is unknown."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape]


def dtype_name(dtype: ir.DataType | None) -> str:
    """NumPy's name of a type, `float32`."""
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return "unknown"
    return "string" if dtype == ir.DataType.STRING else dtype.numpy().name


def taken_names(graph: ir.Graph) -> set[str]:
    """Every name of a node or value in the graph and its subgraphs."""
    names = {value.name for value in (*graph.inputs, *graph.initializers.values()) if value.name}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        names.add(node.name or "")
        names.update(value.name for value in node.outputs if value.name)
    return names


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or the first of `wanted_2`, `wanted_3`, … that is free; takes it."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def set_weight(
    node: ir.Node, index: int, array: NDArray[Any], dtype: ir.DataType, wanted: str, taken: set[str]
) -> None:
    """Make `array`, stored as `dtype`, the constant input `index` of `node`.

    An initializer that only this node reads is replaced under its own name; anything else (none yet, one
    that other nodes share, a Constant node's output) is left alone and a new one, named `wanted`, is made.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    tensor = ir.Tensor(np.ascontiguousarray(array.astype(dtype.numpy())), dtype=dtype)
    old = node.inputs[index] if index < len(node.inputs) else None
    if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
        tensor.name = old.name
        old.const_value = tensor
        old.shape = ir.Shape(array.shape)
        old.dtype = dtype
        return
    name = free_name(wanted, taken)
    tensor.name = name
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def reads(node: ir.Node) -> list[ir.Value]:
    """The values a node reads, those that its subgraphs take from outside included."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = list(attribute.as_graphs())
        else:
            continue
        for body in bodies:
            inner = list(body.all_nodes())
            own = {id(value) for part in inner for value in part.outputs}
            values += [value for part in inner for value in part.inputs if value is not None and id(value) not in own]
            values += [value for value in body.outputs if id(value) not in own]
    return values


@contextmanager
def quiet_logger(name: str) -> Iterator[None]:
    """Hear only errors from a dependency's logger, where its warnings say what is dealt with here."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
