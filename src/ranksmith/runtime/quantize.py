"""int8 models in QDQ form: the one boundary to `onnxruntime.quantization`.

A value x in [low, high] is stored as q = round(x / s) + z with s = (high − low) / 255, and read as s·(q − z):

- activations are uint8, one scale a value, the range widened to hold zero (which padding needs);
- weights are int8 and symmetric, one scale an output channel; biases int32 with scale s_x·s_w.

uint8 × int8 is what VNNI multiplies: on an AMD Zen 4, ResNet-50 is 3.4x faster than float, with int8 activations
only 1.5x. Without VNNI the pairwise sums of the older instruction saturate at 16 bits, so weights get 7 bits there.

Inputs, outputs and their types stay what they were. A Relu or Clip after a quantized operator disappears into its
range. What ends in a Gemm or MatMul that only float operators (or nobody) read stays float: 255 steps for all
logits of a classifier make ties between its best answers.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import get_qmin_qmax_for_qType
from onnxruntime.quantization.registry import CreateQDQQuantizer

from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.runtime.machine import machine
from ranksmith.runtime.onnxruntime import translated
from ranksmith.runtime.scales import channel_scales

__all__ = ["OPERATORS", "Range", "quantizable_values", "quantize"]

Range = tuple[float, float]
"""(lowest, highest) of a value."""

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_MOVING = (
    *("AveragePool", "Flatten", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose"),
    "Unsqueeze",
)
_COMPUTING = ("Add", "Clip", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Relu", "Sigmoid")
OPERATORS = (*_WEIGHTED, *_COMPUTING, *_MOVING)
"""What is quantized: the operators that onnxruntime's CPU provider computes on integers."""

_PER_CHANNEL_OPSET = 13
"""DequantizeLinear has a scale per channel from here on."""

_INFERRED = onnx.StringStringEntryProto(key="onnx.infer", value="onnxruntime.quant")
"""With it onnxruntime takes the shapes for inferred; without, it writes the model to disk to infer them."""


def quantizable_values(model: bytes, *, keep: Collection[str] = ()) -> list[str]:
    """The values of `model` whose ranges `quantize` needs, in graph order.

    Those for an empty `keep` serve every other.

    Raises:
        NodeNotFoundError: `keep` names a node that the model does not have.
        ModelError: the model cannot be read, has no operator to quantize, or cannot be quantized.
    """
    proto, _ = _prepared(model, keep)
    every_value = [value.name for value in proto.graph.input]
    every_value += [name for node in proto.graph.node for name in node.output if name]
    with _quiet(), translated("onnxruntime cannot quantize the model"):
        quantizer = _quantizer(proto, dict.fromkeys(every_value, (0.0, 1.0)), keep=keep, reduce_range=False)
        for node in quantizer.model.nodes():
            if quantizer.should_quantize_node(node):
                CreateQDQQuantizer(quantizer, node).quantize()
    marked = quantizer.tensors_to_quantize
    return [name for name in every_value if name in marked and not marked[name].is_shared]


def quantize(
    model: bytes, ranges: Mapping[str, Range], *, keep: Collection[str] = (), reduce_range: bool | None = None
) -> bytes:
    """`model` in QDQ form; the same arguments give the same bytes.

    Args:
        model: a serialized, normalized model (nodes named, constants among the initializers).
        ranges: of every value in `quantizable_values(model, keep=keep)`; others are ignored.
        keep: names of nodes that stay float.
        reduce_range: 7-bit weights; None: where this CPU needs them.

    Raises:
        NodeNotFoundError: `keep` names a node that the model does not have.
        ModelError: no operator to quantize, int8 or float16 already, an opset that cannot be brought to 13, a weight
            or range that is not finite, or a range that is missing.
    """
    proto, original_info = _prepared(model, keep)
    reduce_range = _saturates() if reduce_range is None else reduce_range
    with _quiet(), translated("onnxruntime cannot quantize the model"):
        lowest, highest = get_qmin_qmax_for_qType(onnx.TensorProto.INT8, reduce_range=reduce_range, symmetric=True)
        scales = channel_scales(proto, float(highest) - float(lowest))
        quantizer = _quantizer(proto, _completed(proto, ranges), keep=keep, reduce_range=reduce_range, scales=scales)
        quantizer.quantize_model()
        quantized = quantizer.model.model
        _restore_float_results(quantized.graph, keep)
        quantizer.model.topological_sort()
    quantized.metadata_props.remove(_INFERRED)
    produced = {name for node in quantized.graph.node for name in node.output}
    del quantized.graph.value_info[:]
    quantized.graph.value_info.extend(value for name, value in original_info.items() if name in produced)
    content: bytes = quantized.SerializeToString(deterministic=True)
    return content


def _prepared(model: bytes, keep: Collection[str]) -> tuple[onnx.ModelProto, dict[str, onnx.ValueInfoProto]]:
    """The model at opset 13 or newer, with the types of its values, after looking for what cannot be quantized.

    Beside it what the model itself said of its values.
    """
    try:
        proto = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise ModelError(f"cannot quantize: not an ONNX model: {error}") from error
    names = [node.name for node in proto.graph.node]
    if unknown := [name for name in keep if name not in names]:
        raise NodeNotFoundError(unknown[0], names)
    if not any(node.op_type in _WEIGHTED and node.name not in keep for node in proto.graph.node):
        which = "that is not kept " if keep else ""
        raise ModelError(
            f"nothing to quantize: the model has no {', '.join(_WEIGHTED[:-1])} or {_WEIGHTED[-1]} {which}".rstrip()
        )
    if any(node.op_type == "DequantizeLinear" for node in proto.graph.node):
        raise ModelError("nothing to quantize: the model is quantized already", hint="start from the float model")
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            raise ModelError(
                f"cannot quantize: the weight {tensor.name} is float16", hint="start from the model in float32"
            )
        if tensor.data_type == onnx.TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise ModelError(
                f"cannot quantize: the weight {tensor.name} holds NaN or infinity",
                hint="the model is damaged, or its training diverged",
            )
    said = {value.name: copy.deepcopy(value) for value in proto.graph.value_info}
    proto = _upgraded(proto)
    if not _typed(proto.graph):
        proto = onnx.shape_inference.infer_shapes(proto)
    proto.metadata_props.append(_INFERRED)
    return proto, said


def _typed(graph: onnx.GraphProto) -> bool:
    """Whether every value says its type, so that there is nothing to infer, which copies all weights."""
    typed = {value.name for value in (*graph.value_info, *graph.output) if value.type.tensor_type.elem_type}
    return all(name in typed for node in graph.node for name in node.output if name)


def _upgraded(proto: onnx.ModelProto) -> onnx.ModelProto:
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= _PER_CHANNEL_OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, _PER_CHANNEL_OPSET)
    except (
        onnx.version_converter.ConvertError,
        onnx.shape_inference.InferenceError,
        RuntimeError,
        ValueError,
    ) as error:
        raise ModelError(
            f"opset {opset} cannot be brought to {_PER_CHANNEL_OPSET}, which int8 needs: {str(error).splitlines()[0]}",
            hint="export the model again with a newer opset",
        ) from error


def _quantizer(
    proto: onnx.ModelProto,
    ranges: Mapping[str, Range],
    *,
    keep: Collection[str],
    reduce_range: bool,
    scales: Mapping[str, NDArray[np.float32]] | None = None,
) -> QDQQuantizer:
    return QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range={
            name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()
        },
        nodes_to_quantize=[],
        nodes_to_exclude=[*keep, *_unbounded_clips(proto)],
        op_types_to_quantize=OPERATORS,
        extra_options={"TensorQuantOverrides": _overrides(scales or {})},
    )


def _overrides(scales: Mapping[str, NDArray[np.float32]]) -> dict[str, list[dict[str, Any]]]:
    """Scales per channel as onnxruntime takes them."""
    return {
        name: [{"scale": scale, "zero_point": np.int8(0), "axis": 0} for scale in channels]
        for name, channels in scales.items()
    }


def _completed(proto: onnx.ModelProto, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """`ranges` with those that follow from them, so that whatever is kept float, none is missing.

    What only moves or selects values has its input's range; before a Relu or Clip stands the range behind it, which
    lies within what it lets through.
    """
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ModelError(f"cannot quantize: the range of {name} is {low} to {high}", hint="calibrate again")
    complete = dict(ranges)
    for node in reversed(proto.graph.node):
        bounds = _bounds(node, proto)
        if bounds is None or node.output[0] not in complete:
            continue
        low, high = complete[node.output[0]]
        complete[node.output[0]] = (min(max(low, bounds[0]), bounds[1]), max(min(high, bounds[1]), bounds[0]))
        complete.setdefault(node.input[0], complete[node.output[0]])
    for node in proto.graph.node:
        if node.op_type in _MOVING and node.input[0] in complete:
            for name in node.output:
                complete.setdefault(name, complete[node.input[0]])
    return complete


def _bounds(node: onnx.NodeProto, proto: onnx.ModelProto) -> Range | None:
    """What a Relu or Clip lets through; None for any other operator, or where it is not constant."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type != "Clip":
        return None
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    bounds = [-math.inf, math.inf]
    for place, name in enumerate(node.input[1:]):
        if name:
            if name not in constants:
                return None
            bounds[place] = float(numpy_helper.to_array(constants[name]).item())
    return bounds[0], bounds[1]


def _unbounded_clips(proto: onnx.ModelProto) -> list[str]:
    """Clips that a range cannot stand for, since every range holds zero."""
    clips = [(node.name, _bounds(node, proto)) for node in proto.graph.node if node.op_type == "Clip"]
    return [name for name, bounds in clips if bounds is None or not bounds[0] <= 0 <= bounds[1]]


def _restore_float_results(graph: onnx.GraphProto, keep: Collection[str]) -> None:
    """Take out the pair after a Gemm or MatMul whose result no quantized operator reads, and what only it read."""
    idle: set[str] = set()
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in list(graph.node):
        if node.op_type not in ("Gemm", "MatMul") or node.name in keep:
            continue
        pair = []
        name = node.output[0]
        for op_type in ("QuantizeLinear", "DequantizeLinear"):
            following = readers.get(name, [])
            if len(following) != 1 or following[0].op_type != op_type:
                break
            pair.append(following[0])
            name = following[0].output[0]
        if len(pair) == 2 and not any(reader.op_type in OPERATORS for reader in readers.get(name, [])):
            for following_node in pair:
                graph.node.remove(following_node)
                idle.update(following_node.input[1:])
            node.output[0] = name
    idle -= {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in idle]:
        graph.initializer.remove(tensor)


def _saturates() -> bool:
    """Whether sums of two products of this CPU saturate at 16 bits (x86 without VNNI)."""
    flags = machine().flags
    return "avx2" in flags and not {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(flags)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of onnxruntime's advice on the root logger, which it would also give a handler of its own."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_drop)
    try:
        yield
    finally:
        root.removeFilter(_drop)
        root.removeHandler(handler)


def _drop(record: logging.LogRecord) -> bool:
    return False
