"""A micro-model that times a chain of Convs where it would stand, not alone.

    x → depthwise 1×1 Conv → Relu → chain → followers (Add, Relu, Clip) → GlobalAveragePool → y

Convs on a CPU run in a blocked layout of channels, and whether they enter it, stay in it and take the Add
into their own loop depends on their neighbours. So the producer and the consumer here are cheap nodes that
live in that layout, and the Add has its second branch there too, as in a residual block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ranksmith.convolution import ConvLayer

__all__ = ["context_model"]

_BLOCK = 16
"""Channels in one block of the widest layout (AVX-512)."""


def context_model(
    chain: Sequence[ConvLayer], input_hw: tuple[int, int], followers: Sequence[str], *, opset: int = 17
) -> bytes:
    """The micro-model as one ONNX file in memory.

    Args:
        chain: applied first to last; a single layer times the original.
        input_hw: height and width of what the chain reads.
        followers: any of Add, Relu and Clip, in order, as `conv_context` gives them.
        opset: at least 11.

    Returns:
        A model with input `x` [N, I, h, w] and output `y` [N, O, 1, 1], both float32.
    """
    build = _Builder()
    value = build.produced("x", chain[0].in_channels)
    size = input_hw
    for index, layer in enumerate(chain):
        value = build.conv(value, f"layer{index}", layer)
        size = layer.output_size(*size)
    for index, follower in enumerate(followers):
        inputs = [value]
        if follower == "Add":
            inputs.append(
                build.branch("x", f"branch{index}", (chain[0].in_channels, input_hw), (_channels(chain), size))
            )
        elif follower == "Clip":
            inputs += [
                build.constant(f"clip{index}/low", np.float32(0)),
                build.constant(f"clip{index}/high", np.float32(6)),
            ]
        elif follower != "Relu":
            raise ValueError(f"{follower!r} is not a follower that can be timed")
        value = build.node(follower, inputs, f"follower{index}")
    build.node("GlobalAveragePool", [value], "y")
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", chain[0].in_channels, *input_hw])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", _channels(chain), 1, 1])
    graph = helper.make_graph(build.nodes, "context", [x], [y], build.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _channels(chain: Sequence[ConvLayer]) -> int:
    return chain[-1].out_channels


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, array: NDArray[Any] | np.float32) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(array, dtype=np.float32), name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def conv(self, x: str, name: str, layer: ConvLayer) -> str:
        inputs = [x, self.constant(f"{name}/weight", layer.weight)]
        if layer.bias is not None:
            inputs.append(self.constant(f"{name}/bias", layer.bias))
        return self.node(
            "Conv",
            inputs,
            name,
            kernel_shape=list(layer.kernel),
            strides=list(layer.strides),
            pads=list(layer.pads),
            dilations=list(layer.dilations),
            group=layer.group,
        )

    def produced(self, x: str, channels: int) -> str:
        """What a layer before would have left: a Relu's output in the blocked layout."""
        weight = np.ones((channels, 1, 1, 1), np.float32)
        return self.node("Relu", [self.conv(x, "producer", ConvLayer(weight, group=channels))], "producer/relu")

    def branch(self, x: str, name: str, given: tuple[int, tuple[int, int]], wanted: tuple[int, tuple[int, int]]) -> str:
        """A second cheap branch from `given` to `wanted` (channels, (height, width)), made like the first."""
        (inside, size), (outside, target) = given, wanted
        strides = tuple(max(1, round(n / m)) for n, m in zip(size, target, strict=True))
        # The smallest kernel k with ⌊(n + end − k)/s⌋ + 1 = m positions, padded at the end where n is too short.
        spare = [n - s * (m - 1) for n, m, s in zip(size, target, strides, strict=True)]
        kernel = [max(1, length - s + 1) for length, s in zip(spare, strides, strict=True)]
        ends = [max(0, 1 - length) for length in spare]
        weight = np.full((inside, 1, *kernel), 1 / math.prod(kernel), np.float32)
        layer = ConvLayer(weight, None, (strides[0], strides[1]), (0, 0, ends[0], ends[1]), group=inside)
        value = self.node("Relu", [self.conv(x, f"{name}/conv", layer)], f"{name}/relu")
        if outside == inside:
            return value
        if outside % inside == 0:
            return self.node("Concat", [value] * (outside // inside), f"{name}/wide", axis=1)
        # As many groups as leave each a whole block of channels, or as many as there can be.
        common = math.gcd(inside, outside)
        group = common // _BLOCK if common % _BLOCK == 0 else common
        weight = np.ones((outside, inside // group, 1, 1), np.float32)
        return self.conv(value, f"{name}/narrow", ConvLayer(weight, group=group))
