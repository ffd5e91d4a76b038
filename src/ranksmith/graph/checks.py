"""What `load` asks of a model before anything relies on it.

A model may parse and still be damaged: bytes that do not fill a tensor's shape, a value that nothing makes,
a Conv whose attributes contradict its weight. Told here, in one line; met later, each would be a crash.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ranksmith.errors import ModelError
from ranksmith.graph.nodes import attribute_int, constant_of, is_op

__all__ = ["check_model"]

_HINT = "the model is damaged; download or export it again"

_ATTRIBUTES = {
    "auto_pad": ir.AttributeType.STRING,
    "dilations": ir.AttributeType.INTS,
    "epsilon": ir.AttributeType.FLOAT,
    "group": ir.AttributeType.INT,
    "kernel_shape": ir.AttributeType.INTS,
    "pads": ir.AttributeType.INTS,
    "spatial": ir.AttributeType.INT,
    "strides": ir.AttributeType.INTS,
    "training_mode": ir.AttributeType.INT,
    "transB": ir.AttributeType.INT,
}
_OPERATORS = ("Conv", "ConvTranspose", "BatchNormalization", "Gemm", "MatMul")
_INPUTS = {"Conv": (2, 3), "ConvTranspose": (2, 3), "BatchNormalization": (5, 5), "Gemm": (2, 3), "MatMul": (2, 2)}

_COUNTED_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.INT32: "int32_data",
    ir.DataType.FLOAT16: "int32_data",
    ir.DataType.BFLOAT16: "int32_data",
}


def check_model(model: ir.Model, path: Path) -> None:
    """Check the tensors, edges and operators that ranksmith reads.

    Raises:
        ModelError: something contradicts itself; the message names the file and the tensor or node.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            _check_tensor(value, path)
    _check_edges(model.graph, path)
    for node in model.graph.all_nodes():
        if is_op(node, *_OPERATORS) and (problem := _problem(node)) is not None:
            raise ModelError(f"{path}: damaged: {node.op_type} {node.name!r} {problem}", hint=_HINT)


def _check_tensor(value: ir.Value, path: Path) -> None:
    tensor = value.const_value
    if tensor is None or isinstance(tensor, ir.ExternalTensor):
        return
    if tensor.dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"{path}: damaged: initializer {value.name!r} has no type", hint=_HINT)
    if not isinstance(tensor, ir.serde.TensorProtoTensor):
        return
    found: int | None = None
    if tensor.raw.HasField("raw_data"):
        unit, found, needed = "bytes", len(tensor.raw.raw_data), tensor.nbytes
    elif tensor.dtype in _COUNTED_FIELDS:
        unit, found, needed = "elements", len(getattr(tensor.raw, _COUNTED_FIELDS[tensor.dtype])), tensor.size
    if found is not None and found != needed:
        raise ModelError(
            f"{path}: damaged: initializer {value.name!r} has {found} {unit}, its shape needs {needed}", hint=_HINT
        )


def _check_edges(graph: ir.Graph, path: Path) -> None:
    for node in graph.all_nodes():
        for value in node.inputs:
            if value is not None and not _is_given(value):
                name = node.name or node.op_type
                raise ModelError(f"{path}: node {name!r} reads {value.name!r}, which nothing produces", hint=_HINT)
    for value in graph.outputs:
        if not _is_given(value):
            raise ModelError(f"{path}: nothing produces the output {value.name!r}", hint=_HINT)


def _is_given(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()


def _problem(node: ir.Node) -> str | None:
    """What contradicts itself in an operator, or None."""
    least, most = _INPUTS[node.op_type]
    given = [value for value in node.inputs[:least] if value is not None]
    if len(given) < least or len(node.inputs) > most or not node.outputs:
        return f"has {len(node.inputs)} inputs and {len(node.outputs)} outputs"
    for name, kind in _ATTRIBUTES.items():
        attribute = node.attributes.get(name)
        if attribute is not None and (attribute.is_ref() or attribute.type != kind):
            return f"has an attribute {name!r} that is not of type {kind.name}"
    return _conv_problem(node) if is_op(node, "Conv", "ConvTranspose") else None


def _conv_problem(node: ir.Node) -> str | None:
    group = attribute_int(node, "group", 1)
    if group < 1:
        return f"has {group} groups"
    weight = constant_of(node.inputs[1])
    if weight is None:
        return None
    shape = weight.shape.numpy()
    axes = len(shape) - 2
    if axes < 1 or shape[0] % group:
        return f"has a weight of shape {list(shape)} in {group} groups"
    for name, per_axis, smallest in (("kernel_shape", 1, 1), ("strides", 1, 1), ("dilations", 1, 1), ("pads", 2, 0)):
        attribute = node.attributes.get(name)
        if attribute is None:
            continue
        values = list(attribute.as_ints())
        if len(values) != per_axis * axes or min(values) < smallest:
            return f"has {name} {values} for a weight of shape {list(shape)}"
    return None
