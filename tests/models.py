"""Tiny seeded ONNX models, built in the test that uses them.

`GraphBuilder` appends nodes and returns value names; the functions below it build whole models of the
shapes that tests need most often. All of them return `onnx.ModelProto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = [
    "GraphBuilder",
    "classifier",
    "conv_bn",
    "mlp",
    "node_types",
    "random_feeds",
    "residual_classifier",
    "run",
    "save",
    "single_conv",
]

Dim = int | str


class GraphBuilder:
    """Builds a model node by node; every random number comes from `seed`."""

    def __init__(self, *, opset: int = 17, seed: int = 0, dtype: Any = np.float32) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    @property
    def elem_type(self) -> int:
        return helper.np_dtype_to_tensor_dtype(self.dtype)

    def input(self, name: str, shape: Sequence[Dim]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, self.elem_type, list(shape)))
        return name

    def output(self, name: str, shape: Sequence[Dim] | None = None) -> str:
        shape = list(shape) if shape is not None else None
        self.outputs.append(helper.make_tensor_value_info(name, self.elem_type, shape))
        return name

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def constant_node(self, name: str, array: NDArray[Any]) -> str:
        """The same as a Constant node."""
        value = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.nodes.append(helper.make_node("Constant", [], [name], name=f"{name}_node", value=value))
        return name

    def weights(self, name: str, shape: Sequence[int], *, scale: float | None = None) -> str:
        """A random tensor; by default scaled so that activations keep their magnitude."""
        if scale is None:
            scale = float(np.sqrt(2.0 / max(1, int(np.prod(shape[1:])))))
        return self.constant(name, (self.rng.standard_normal(shape) * scale).astype(self.dtype))

    def node(self, op: str, inputs: Sequence[str], output: str, *, name: str | None = None, **attributes: Any) -> str:
        node_name = f"{output}_{op}" if name is None else name
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=node_name, **attributes))
        return output

    def conv(
        self,
        x: str,
        name: str,
        channels: tuple[int, int],
        *,
        kernel: int | tuple[int, int] = 3,
        bias: bool = False,
        group: int = 1,
        transposed: bool = False,
        **attributes: Any,
    ) -> str:
        """A Conv (or ConvTranspose) node called `name` from channels[0] to channels[1]; its output is `<name>_out`."""
        inside, outside = channels
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        shape = (inside, outside // group, *size) if transposed else (outside, inside // group, *size)
        inputs = [x, self.weights(f"{name}_weight", shape)]
        if bias:
            inputs.append(self.weights(f"{name}_bias", (outside,), scale=0.1))
        attributes.setdefault("kernel_shape", list(size))
        op = "ConvTranspose" if transposed else "Conv"
        return self.node(op, inputs, f"{name}_out", name=name, group=group, **attributes)

    def batch_norm(self, x: str, name: str, channels: int, *, output: str | None = None, **attributes: Any) -> str:
        """A BatchNormalization called `name` with statistics well away from 0 and 1."""
        gamma = self.constant(f"{name}_gamma", self.rng.uniform(0.5, 1.5, channels).astype(self.dtype))
        beta = self.constant(f"{name}_beta", self.rng.normal(0, 0.5, channels).astype(self.dtype))
        mean = self.constant(f"{name}_mean", self.rng.normal(0, 0.5, channels).astype(self.dtype))
        var = self.constant(f"{name}_var", self.rng.uniform(0.5, 2.0, channels).astype(self.dtype))
        inputs = [x, gamma, beta, mean, var]
        return self.node("BatchNormalization", inputs, output or f"{name}_out", name=name, **attributes)

    def model(self, *, ir_version: int | None = None) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "test", self.inputs, self.outputs, self.initializers)
        version = ir_version if ir_version is not None else (8 if self.opset <= 17 else 10)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=version)


def single_conv(
    channels: tuple[int, int] = (16, 16), *, hw: tuple[int, int] = (8, 8), opset: int = 17, seed: int = 0, **conv: Any
) -> onnx.ModelProto:
    """x [N, I, h, w] → Conv `conv` → `conv_out`."""
    build = GraphBuilder(opset=opset, seed=seed)
    x = build.input("x", ["N", channels[0], *hw])
    conv.setdefault("pads", [1, 1, 1, 1])
    build.output(build.conv(x, "conv", channels, **conv), ["N", channels[1], "h", "w"])
    return build.model()


def conv_bn(
    channels: tuple[int, int] = (4, 6),
    *,
    hw: tuple[int, int] = (8, 8),
    opset: int = 17,
    seed: int = 0,
    dtype: Any = np.float32,
    **conv: Any,
) -> onnx.ModelProto:
    """x [N, I, h, w] → Conv `conv` → BatchNormalization `bn` → Relu → `y`."""
    build = GraphBuilder(opset=opset, seed=seed, dtype=dtype)
    x = build.input("x", ["N", channels[0], *hw])
    normalized = build.batch_norm(build.conv(x, "conv", channels, **conv), "bn", channels[1])
    build.output(build.node("Relu", [normalized], "y"), ["N", channels[1], "h", "w"])
    return build.model()


def residual_classifier(
    *,
    widths: Sequence[int] = (16, 32),
    classes: int = 10,
    hw: tuple[int, int] = (16, 16),
    opset: int = 17,
    seed: int = 0,
    batch_norm: bool = True,
    batch: Dim = "N",
) -> onnx.ModelProto:
    """A small residual classifier: stem, one basic block a width (stride 2 from the second on), pool, Gemm.

    Input `x` [N, 3, h, w]; output `logits` [N, classes]. Node names: `stem`, `block<i>/conv1`,
    `block<i>/conv2`, `block<i>/shortcut` (from the second block on), `fc`.
    """
    build = GraphBuilder(opset=opset, seed=seed)

    def conv(x: str, name: str, channels: tuple[int, int], **attributes: Any) -> str:
        out = build.conv(x, name, channels, bias=not batch_norm, **attributes)
        return build.batch_norm(out, f"{name}/bn", channels[1]) if batch_norm else out

    x = build.input("x", [batch, 3, *hw])
    x = build.node("Relu", [conv(x, "stem", (3, widths[0]), pads=[1, 1, 1, 1])], "stem/relu")
    inside = widths[0]
    for index, width in enumerate(widths):
        name, strides = f"block{index}", [1, 1] if index == 0 else [2, 2]
        y = conv(x, f"{name}/conv1", (inside, width), pads=[1, 1, 1, 1], strides=strides)
        y = build.node("Relu", [y], f"{name}/relu1")
        y = conv(y, f"{name}/conv2", (width, width), pads=[1, 1, 1, 1])
        if index:
            x = conv(x, f"{name}/shortcut", (inside, width), kernel=1, strides=strides)
        x = build.node("Relu", [build.node("Add", [y, x], f"{name}/add")], f"{name}/relu2")
        inside = width
    x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "pool")], "flat")
    fc = [x, build.weights("fc_weight", (classes, inside)), build.weights("fc_bias", (classes,), scale=0.1)]
    build.output(build.node("Gemm", fc, "logits", name="fc", transB=1), [batch, classes])
    return build.model()


def classifier(*, classes: int = 10, hw: tuple[int, int] = (8, 8), seed: int = 0, batch: Dim = "N") -> onnx.ModelProto:
    """The smallest classifier: one 3×3 Conv to 16 channels, Relu, pool, Gemm. Input `x`, output `logits`."""
    build = GraphBuilder(seed=seed)
    x = build.input("x", [batch, 3, *hw])
    x = build.node("Relu", [build.conv(x, "conv", (3, 16), bias=True, pads=[1, 1, 1, 1])], "relu")
    x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "pool")], "flat")
    fc = [x, build.weights("fc_weight", (classes, 16)), build.weights("fc_bias", (classes,), scale=0.1)]
    build.output(build.node("Gemm", fc, "logits", name="fc", transB=1), [batch, classes])
    return build.model()


def mlp(*, seed: int = 0) -> onnx.ModelProto:
    """A model without a Conv: x [N, 8] → Gemm → Relu → Gemm → `logits` [N, 4]."""
    build = GraphBuilder(seed=seed)
    x = build.input("x", ["N", 8])
    x = build.node("Relu", [build.node("Gemm", [x, build.weights("w1", (8, 16))], "hidden")], "relu")
    build.output(build.node("Gemm", [x, build.weights("w2", (16, 4))], "logits"), ["N", 4])
    return build.model()


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write `model` and return `path`."""
    path.write_bytes(model.SerializeToString())
    return path


def random_feeds(model: onnx.ModelProto, *, batch: int = 2, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Standard normal values for every input; a symbolic dimension becomes `batch`."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else batch for dim in tensor.shape.dim]
        feeds[value.name] = rng.standard_normal(shape).astype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return feeds


def run(
    model: onnx.ModelProto | bytes | Path, feeds: Mapping[str, NDArray[Any]], *, optimize: bool = False
) -> dict[str, NDArray[Any]]:
    """The outputs of plain onnxruntime, by name; on one thread and, unless `optimize`, without graph optimization."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    source = str(source) if isinstance(source, Path) else source
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def node_types(model: onnx.ModelProto) -> list[str]:
    """The operators of the main graph, in order."""
    return [node.op_type for node in model.graph.node]
