"""Fold BatchNormalization into the Conv or ConvTranspose before it.

    y = γ·(conv(x) − μ)/√(σ² + ε) + β  =  conv'(x),   W' = W·s,  b' = (b − μ)·s + β,  s = γ/√(σ² + ε)

with s along the output channels: axis 0 of a Conv's W [O, I/g, kh, kw], and axis 1 within each group of a
ConvTranspose's W [I, O/g, kh, kw]. Computed in float64, stored in the weight's own type. (Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference", section 3.2.)

Folding alone makes nothing faster, for runtimes fold on their own; decomposition must see folded weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.graph.nodes import (
    attribute_float,
    attribute_int,
    constant_of,
    dtype_name,
    is_op,
    opset_of,
    set_weight,
    taken_names,
)
from ranksmith.graph.normalize import normalize
from ranksmith.results import Change, PassReport, Skip

__all__ = ["fold"]

_TRAINING_MODE_OPSET = 14
"""Before it, more than one output was what said that a BatchNormalization trains."""


@dataclass(frozen=True, eq=False)
class _Folded:
    """What a Conv becomes."""

    conv: ir.Node
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    dtype: ir.DataType


def fold(model: ir.Model) -> PassReport:
    """Normalize `model`, then fold every BatchNormalization that can be, in place.

    The Conv takes over the name of the BatchNormalization's output, so every other value keeps its name.
    A weight that other nodes read is copied first. Initializers that nothing reads are removed.
    """
    report = normalize(model)
    changed, skipped = list(report.changed), []
    changed += [Change(node=name, what="initializer removed: nothing reads it") for name in _drop_unread(model)]
    opset = opset_of(model)
    taken = taken_names(model.graph)
    for node in list(model.graph.all_nodes()):
        if not is_op(node, "BatchNormalization"):
            continue
        folded = _check(node, opset)
        if isinstance(folded, str):
            skipped.append(Skip(node=node.name or "", why=folded))
            continue
        what = f"BatchNormalization folded into {folded.conv.op_type} {folded.conv.name}"
        changed.append(Change(node=node.name or "", what=what))
        _rewrite(node, folded, taken)
    _drop_unread(model)  # what the folded nodes leave behind goes without saying
    return PassReport(name="fold", changed=changed, skipped=skipped)


def _check(node: ir.Node, opset: int) -> _Folded | str:
    """What the Conv before `node` becomes, or a sentence saying why it cannot be folded."""
    if (why := _trains(node, opset)) is not None:
        return why
    source = node.inputs[0]
    assert source is not None
    conv = source.producer()
    if conv is None or not is_op(conv, "Conv", "ConvTranspose"):
        produced = f"a {conv.op_type} ({conv.name})" if conv is not None else f"the input {source.name}"
        return f"its input comes from {produced}, not from a Conv"
    if source.is_graph_output():
        return f"its input {source.name} is an output of the model"
    others = sorted({user.name or user.op_type for user, _ in source.uses() if user is not node})
    if others or conv.graph is not node.graph:
        return f"its input {source.name} is also read by {', '.join(others) or 'another graph'}"
    return _folded_conv(node, conv)


def _trains(node: ir.Node, opset: int) -> str | None:
    if attribute_int(node, "training_mode", 0):
        return "it is in training mode, so its statistics are those of each batch"
    if opset < _TRAINING_MODE_OPSET and any(value.name for value in node.outputs[1:]):
        return "it has more than one output, which before opset 14 means training mode"
    if opset < 9 and not attribute_int(node, "spatial", 1):
        return "spatial=0 normalizes each position on its own"
    return None


def _folded_conv(node: ir.Node, conv: ir.Node) -> _Folded | str:
    tensors = [constant_of(value) for value in conv.inputs[1:] if value is not None]
    statistics = [constant_of(value) for value in node.inputs[1:5]]
    if any(tensor is None for tensor in tensors):
        return f"the weight or bias of {conv.op_type} {conv.name} is computed in the graph, not constant"
    if any(tensor is None for tensor in statistics):
        return "its scale, bias or statistics are computed in the graph, not constant"
    # What a broken export has (a negative variance, a NaN) shows in the result, which is checked.
    with np.errstate(all="ignore"):
        weight, *rest = [_float64(tensor) for tensor in tensors]
        gamma, beta, mean, variance = [_float64(tensor) for tensor in statistics]
        if len({array.shape for array in (gamma, beta, mean, variance, *rest)}) > 1:
            return f"its statistics and the bias of {conv.op_type} {conv.name} have different sizes"
        scale = gamma / np.sqrt(variance + attribute_float(node, "epsilon", 1e-5))
        bias = ((rest[0] if rest else 0.0) - mean) * scale + beta
        scaled = _scaled(weight, scale, conv)
        if scaled is None:
            return f"it has {scale.size} channels, unlike {conv.op_type} {conv.name}"
        assert tensors[0] is not None
        dtype = tensors[0].dtype
        stored = [array.astype(dtype.numpy()).astype(np.float64) for array in (scaled, bias)]
    if not all(np.isfinite(array).all() for array in stored):
        return f"the folded weight would not be finite in {dtype_name(dtype)}"
    return _Folded(conv, scaled, bias, dtype)


def _float64(tensor: ir.TensorProtocol | None) -> NDArray[np.float64]:
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


def _scaled(weight: NDArray[np.float64], scale: NDArray[np.float64], conv: ir.Node) -> NDArray[np.float64] | None:
    """The weight with each output channel scaled; None where the number of channels differs."""
    spatial = (1,) * (weight.ndim - 2)
    if conv.op_type == "Conv":
        if scale.shape != weight.shape[:1]:
            return None
        return weight * scale.reshape(-1, 1, *spatial)
    group = attribute_int(conv, "group", 1)
    if scale.shape != (weight.shape[1] * group,):
        return None
    grouped = weight.reshape(group, -1, *weight.shape[1:])
    return (grouped * scale.reshape(group, 1, -1, *spatial)).reshape(weight.shape)


def _rewrite(node: ir.Node, folded: _Folded, taken: set[str]) -> None:
    conv, graph = folded.conv, node.graph
    assert graph is not None
    set_weight(conv, 1, folded.weight, folded.dtype, f"{conv.name}/weight", taken)
    set_weight(conv, 2, folded.bias, folded.dtype, f"{conv.name}/bias", taken)
    before, after = conv.outputs[0], node.outputs[0]
    before.shape = after.shape if after.shape is not None else before.shape
    before.type = after.type if after.type is not None else before.type
    after.replace_all_uses_with(before, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    before.name = after.name


def _drop_unread(model: ir.Model) -> list[str]:
    """Remove the initializers that nothing reads; their names."""
    dropped = []
    for graph in model.graphs():
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del graph.initializers[name]
                dropped.append(name)
    return dropped
