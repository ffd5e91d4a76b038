"""The single Conv that a chain amounts to, and a chain's error from the statistics of its input.

With Ŵ the composed weight as [O, d], Δ = Ŵ − W, C and m the covariance and mean of the columns:

    E‖ŷ − y‖² = tr(Δ·C·Δᵀ) + ‖Δ·m + b̂ − b‖²,    E‖y − ȳ‖² = tr(W·C·Wᵀ).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.statistics import InputStatistics

__all__ = ["compose", "layer_error"]

Array = NDArray[Any]


def compose(chain: Sequence[ConvLayer]) -> ConvLayer:
    """The layer that `chain` amounts to, in float64; exact for the chains that `factors` returns.

    Raises:
        ValueError: two layers of the chain extend, stride or pad along the same axis, a bias meets
            padding, or the numbers of groups differ.
    """
    result = chain[0]
    for layer in chain[1:]:
        result = _compose(result, layer)
    return ConvLayer(
        np.asarray(result.weight, np.float64),
        None if result.bias is None else np.asarray(result.bias, np.float64),
        result.strides,
        result.pads,
        result.dilations,
        result.group,
    )


def layer_error(layer: ConvLayer, chain: Sequence[ConvLayer], statistics: InputStatistics) -> float:
    """Relative L2 error of a chain in place of the layer, ‖ŷ − y‖ / ‖y − ȳ‖ over the data of `statistics`.

    Zero where the output never varies and the chain gives it; infinite where it varies only in the chain.

    Raises:
        ValueError: the chain does not amount to a Conv of the layer's shape.
    """
    whole = compose(chain)
    if whole.weight.shape != layer.weight.shape or whole.group != layer.group:
        raise ValueError(f"a chain of shape {whole.weight.shape} in place of {layer.weight.shape}")
    weight = np.asarray(layer.weight, np.float64).reshape(layer.group, layer.out_channels // layer.group, -1)
    delta = whole.weight.reshape(weight.shape) - weight
    shift = _bias(whole).reshape(weight.shape[:2]) - _bias(layer).reshape(weight.shape[:2])
    squared = energy = 0.0
    for group in range(layer.group):
        moments = statistics.moments(group)
        offset = delta[group] @ moments.mean + shift[group]
        squared += float(np.sum((delta[group] @ moments.covariance) * delta[group])) + float(offset @ offset)
        energy += float(np.sum((weight[group] @ moments.covariance) * weight[group]))
    squared = max(0.0, squared)
    if energy > 0:
        return float(np.sqrt(squared / energy))
    # Rounding of float32 factors is no error worth the name.
    scale = float(np.sum(np.square(_bias(layer)))) + 1.0
    return 0.0 if squared <= 1e-10 * scale else float("inf")


def _compose(first: ConvLayer, second: ConvLayer) -> ConvLayer:
    if first.group != second.group:
        raise ValueError(f"cannot compose {first.group} groups with {second.group}")
    carried = [_carries(layer, axis) for axis in (0, 1) for layer in (first, second)]
    if (carried[0] and carried[1]) or (carried[2] and carried[3]):
        raise ValueError("both layers extend, stride or pad along the same axis")
    if first.bias is not None and any(second.pads):
        raise ValueError("a bias before padding has no single Conv")
    group, inner = first.group, second.weight.shape[1]
    a = np.asarray(first.weight, np.float64).reshape(group, inner, *first.weight.shape[1:])
    b = np.asarray(second.weight, np.float64).reshape(group, -1, *second.weight.shape[1:])
    # Along each axis one of the kernels has size 1, so the product of the two sizes is the kernel's.
    product = np.einsum("griyx,gorvw->goiyvxw", a, b, optimize=True)
    kernel = [p * q for p, q in zip(first.kernel, second.kernel, strict=True)]
    weight = product.reshape(second.out_channels, first.weight.shape[1], *kernel)
    bias = None
    if first.bias is not None or second.bias is not None:
        through = np.einsum("gorvw,gr->go", b, _bias(first).reshape(group, inner), optimize=True)
        bias = through.reshape(-1) + _bias(second)
    top, left, bottom, right = (p + q for p, q in zip(first.pads, second.pads, strict=True))
    by_axis = [first if not _carries(second, axis) else second for axis in (0, 1)]
    return ConvLayer(
        weight,
        bias,
        strides=(by_axis[0].strides[0], by_axis[1].strides[1]),
        pads=(top, left, bottom, right),
        dilations=(by_axis[0].dilations[0], by_axis[1].dilations[1]),
        group=group,
    )


def _carries(layer: ConvLayer, axis: int) -> bool:
    return bool(layer.kernel[axis] > 1 or layer.strides[axis] > 1 or layer.pads[axis] or layer.pads[axis + 2])


def _bias(layer: ConvLayer) -> Array:
    return np.zeros(layer.out_channels) if layer.bias is None else np.asarray(layer.bias, np.float64)
