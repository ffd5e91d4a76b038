"""Tiny models to differentiate, and what their gradients are held against.

`check` takes finite differences in double precision; `check_adjoint` serves operators that are linear, at least near x,
where ⟨gradient, v⟩ = ⟨seed, f(x + v) − f(x)⟩ holds exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ranksmith.graph.gradient import SEED, gradient_model, gradient_name
from tests.models import GraphBuilder, run

Array = NDArray[Any]
Body = Callable[[GraphBuilder, str], str]
_STEP = 1e-6


def gradients(
    model: onnx.ModelProto, x: Array, seed: Array, values: Sequence[str], output: str = "y"
) -> dict[str, Array]:
    """The gradients that are reached, by value, in onnxruntime."""
    made, reached = gradient_model(ir.from_proto(model), values, output)
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto)
    found = run(proto, {"x": x, SEED: seed}, optimize=True)
    assert list(found) == [gradient_name(value) for value in reached]
    return {value: found[gradient_name(value)] for value in reached}


def check(body: Body, shape: Sequence[int], *, opset: int = 17, dynamic: bool = False) -> None:
    """The gradient of a model [N, …] → y with respect to its input, along random directions."""
    models = {}
    for dtype in (np.float32, np.float64):
        build = GraphBuilder(opset=opset, dtype=dtype)
        dims = ["N", shape[1], *(f"d{i}" for i in range(2, len(shape)))] if dynamic else ["N", *shape[1:]]
        made = body(build, build.node("Identity", [build.input("x", dims)], "x0"))
        build.node("Identity", [made], "y")
        build.output("y", None)
        models[dtype] = build.model()
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape)
    exact = ReferenceEvaluator(models[np.float64])
    y = exact.run(None, {"x": x})[0]
    seed = rng.standard_normal(y.shape)
    found = gradients(models[np.float32], x.astype(np.float32), seed.astype(np.float32), ["x"])
    assert found["x"].shape == x.shape
    for _ in range(3):
        direction = rng.standard_normal(shape)
        ahead, behind = (exact.run(None, {"x": x + s * _STEP * direction})[0] for s in (1, -1))
        expected = float(((ahead - behind) * seed).sum()) / (2 * _STEP)
        scale = np.linalg.norm(found["x"]) * np.sqrt(direction.size) / 3 + 1e-3
        assert abs(float((found["x"] * direction).sum()) - expected) < 2e-4 * scale


def check_adjoint(
    body: Body, shape: Sequence[int], *, opset: int = 17, dynamic: bool = False, kink: bool = False
) -> None:
    """⟨gradient, v⟩ = ⟨seed, f(x + v) − f(x)⟩ for a linear model f, or one that is linear near x (`kink`)."""
    build = GraphBuilder(opset=opset)
    dims = ["N", shape[1], *(f"d{i}" for i in range(2, len(shape)))] if dynamic else ["N", *shape[1:]]
    build.node("Identity", [body(build, build.input("x", dims))], "y")
    build.output("y", None)
    model = build.model()
    rng = np.random.default_rng(1)
    # Whole numbers, all different, so that steps below a half change no order.
    x = rng.permutation(math.prod(shape)).reshape(shape).astype(np.float32) if kink else np.zeros(shape, np.float32)
    # Steps of 1/256, so that x + v is exact and what is compared is the gradient, not rounding.
    v = (rng.integers(-102, 103, shape) / 256).astype(np.float32)
    before, after = (run(model, {"x": value})["y"].astype(np.float64) for value in (x, x + v))
    seed = rng.standard_normal(before.shape).astype(np.float32)
    found = gradients(model, x, seed, ["x"])["x"]
    scale = np.linalg.norm(seed) * np.linalg.norm(after - before) + 1e-2 * np.linalg.norm(seed)
    assert found.shape == x.shape
    assert abs(float((found.astype(np.float64) * v).sum()) - float((seed * (after - before)).sum())) < 1e-5 * scale


def unary(op: str, **attributes: Any) -> Body:
    return lambda build, x: build.node(op, [x], op, **attributes)


def weighted(op: str, shape: Sequence[int], *, first: bool = True, **attributes: Any) -> Body:
    def body(build: GraphBuilder, x: str) -> str:
        weight = build.constant("w", np.asarray(build.rng.uniform(0.5, 2, shape), build.dtype))
        return build.node(op, [x, weight] if first else [weight, x], op, **attributes)

    return body


def ints(build: GraphBuilder, *numbers: int) -> str:
    return build.constant(f"ints{len(build.initializers)}", np.asarray(numbers, np.int64))


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes, kernels, strides, pads and dilations that leave at least one position."""
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    dilations = [draw(st.integers(1, 2)) for _ in range(2)]
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    return {
        "hw": [span + draw(st.integers(0, 4)) for span in spans],
        "kernel": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in range(2)],
        "pads": [draw(st.integers(0, 2)) for _ in range(4)],
        "dilations": dilations,
    }
