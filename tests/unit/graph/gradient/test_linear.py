"""Convs of every geometry, other linear layers, Softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import GraphBuilder
from tests.unit.graph.gradient.cases import Body, check, check_adjoint, gradients, unary, weighted, windows


@given(windows(), st.sampled_from([(4, 6, 1), (4, 6, 2), (4, 4, 4), (3, 1, 1)]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_convs_of_every_geometry(window: dict[str, Any], channels: tuple[int, int, int], dynamic: bool) -> None:
    inside, outside, group = channels
    attributes = {name: value for name, value in window.items() if name not in ("hw", "kernel")}
    kernel = tuple(window["kernel"])
    check_adjoint(
        lambda build, x: build.conv(x, "conv", (inside, outside), kernel=kernel, group=group, bias=True, **attributes),
        (2, inside, *window["hw"]),
        dynamic=dynamic,
    )


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_convs_that_pad_by_themselves(mode: str) -> None:
    check_adjoint(lambda build, x: build.conv(x, "conv", (3, 4), strides=[2, 2], auto_pad=mode), (2, 3, 6, 7))


def test_linear_layers() -> None:
    check(weighted("MatMul", (5, 7)), (2, 3, 4, 5))
    for turned in (0, 1):
        shape = (6, 5) if turned else (5, 6)
        check(weighted("Gemm", shape, transB=turned, alpha=0.7), (2, 5))


def test_softmax_flattened_what_followed_before_opset_13() -> None:
    def built(opset: int, body: Body) -> onnx.ModelProto:
        build = GraphBuilder(opset=opset)
        build.node("Identity", [body(build, build.input("x", ["N", 3, 4]))], "y")
        build.output("y", ["N", 3, 4])
        return build.model()

    def flattened(build: GraphBuilder, x: str) -> str:
        flat = build.node("Softmax", [build.node("Flatten", [x], "flat")], "s", axis=1)
        return build.node("Reshape", [flat, build.constant("shape", np.asarray([-1, 3, 4]))], "r")

    x, seed = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    old = gradients(built(11, unary("Softmax", axis=1)), x, seed, ["x"])["x"]
    np.testing.assert_allclose(old, gradients(built(17, flattened), x, seed, ["x"])["x"], atol=1e-6)
