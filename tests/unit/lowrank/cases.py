"""Random layers and inputs for the lowrank tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.columns import convolve, convolve_chain
from ranksmith.lowrank.factor import KINDS
from ranksmith.lowrank.statistics import InputStatistics, OutputStatistics

__all__ = ["Case", "activations", "cases", "make_layer", "statistics_for"]

Array = NDArray[Any]


def make_layer(
    rng: np.random.Generator,
    out_channels: int,
    in_channels: int,
    kernel: tuple[int, int] = (3, 3),
    *,
    bias: bool = True,
    group: int = 1,
    **geometry: Any,
) -> ConvLayer:
    weight = rng.standard_normal((out_channels, in_channels // group, *kernel)).astype(np.float32)
    own = rng.standard_normal(out_channels).astype(np.float32) if bias else None
    return ConvLayer(weight, own, group=group, **geometry)


def activations(rng: np.random.Generator, images: int, channels: int, hw: tuple[int, int]) -> Array:
    """Correlated, of mean far from zero and mostly positive, as after a ReLU."""
    mix = rng.standard_normal((channels, channels)) * np.geomspace(1, 0.05, channels)
    noise = rng.standard_normal((images, channels, *hw))
    return np.maximum(np.einsum("ij,njhw->nihw", mix, noise) + 0.5, 0).astype(np.float32)


def statistics_for(kind: str, layer: ConvLayer, *batches: Array) -> OutputStatistics | InputStatistics | None:
    """What `kind` needs, from the layer's inputs."""
    need = KINDS[kind].needs
    if need is None:
        return None
    if need == "input":
        inputs = InputStatistics(layer)
        for x in batches:
            inputs.update(x)
        return inputs
    outputs = OutputStatistics(layer.out_channels)
    for x in batches:
        outputs.update(convolve(x, layer))
    return outputs


@dataclass(frozen=True)
class Case:
    layer: ConvLayer
    x: Array
    other: Array
    """Inputs that took no part in any statistics."""

    def error(self, chain: tuple[ConvLayer, ...], x: Array) -> float:
        """Largest difference of the chain's output, relative to the largest output."""
        exact = convolve(x, self.layer)
        return float(np.max(np.abs(convolve_chain(x, chain) - exact)) / max(1e-6, np.max(np.abs(exact))))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Layers of every geometry, with statistics that may be degenerate."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    small = st.integers(1, 3)
    kernel = (draw(small), draw(small))
    layer = make_layer(
        rng,
        group * draw(st.integers(1, 6)),
        group * draw(st.integers(1, 5)),
        kernel,
        bias=draw(st.booleans()),
        group=group,
        strides=(draw(small), draw(small)),
        pads=tuple(draw(st.integers(0, 2)) for _ in range(4)),
        dilations=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
    )
    hw = (draw(st.integers(6, 9)), draw(st.integers(6, 9)))
    x = activations(rng, draw(st.integers(1, 3)), layer.in_channels, hw)
    trouble = draw(st.sampled_from(["none", "none", "dead inputs", "constant", "zero", "dead weights"]))
    if trouble == "dead inputs":
        x[:, ::2] = 0
    elif trouble == "constant":
        x[:] = 1.5
    elif trouble == "zero":
        x[:] = 0
    elif trouble == "dead weights":
        layer.weight[::2] = 0
        layer.weight[:, ::2] = 0
    return Case(layer, x, rng.standard_normal((2, layer.in_channels, *hw)).astype(np.float32))
