"""Operators that only move elements."""

from __future__ import annotations

import onnx
import pytest

from tests.models import GraphBuilder
from tests.unit.graph.gradient.cases import Body, check, check_adjoint, ints, unary


def _joined(build: GraphBuilder, x: str) -> str:
    parts = [x, build.node("Sigmoid", [x], "s"), build.weights("constant", (2, 1, 4, 5)), x]
    return build.node("Concat", parts, "joined", axis=1)


def _split(build: GraphBuilder, x: str) -> str:
    build.nodes.append(onnx.helper.make_node("Split", [x, ints(build, 1, 2, 1)], ["a", "b", "c"], "split", axis=1))
    return build.node("Mul", [build.node("Tanh", ["c"], "t"), "a"], "product")


def _shuffled(build: GraphBuilder, x: str) -> str:
    parted = build.node("Reshape", [x, ints(build, 0, 2, 2, 4, 5)], "parted")
    turned = build.node("Transpose", [parted], "turned", perm=[0, 2, 4, 1, 3])
    return build.node("Reshape", [turned, ints(build, 0, -1, 5, 4)], "shuffled")


def _shortcut(build: GraphBuilder, x: str) -> str:
    """How a ResNet without projections is exported: every second pixel, and new channels of zeros."""
    inputs = [x, ints(build, 0, -1), ints(build, 9, -9), ints(build, 2, 3), ints(build, 2, -2)]
    return build.node("Pad", [build.node("Slice", inputs, "s"), ints(build, 0, 1, 0, -1, 0, 2, -1, 0)], "p")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("body", [_joined, _split])
def test_several_readers_and_several_outputs(body: Body, dynamic: bool) -> None:
    check(body, (2, 4, 4, 5), dynamic=dynamic)


SHAPING = {
    "shuffled": _shuffled,
    "shortcut": _shortcut,
    "flattened": unary("Flatten", axis=2),
    "turned round": unary("Transpose"),
    "squeezed": lambda build, x: build.node(
        "Squeeze", [build.node("Unsqueeze", [x, ints(build, 1, 5)], "u"), ints(build, 1)], "squeezed"
    ),
    "padded along one axis": lambda build, x: build.node("Pad", [x, ints(build, 1, 2), "", ints(build, 3)], "p"),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", SHAPING)
def test_what_only_moves_goes_back_where_it_came_from(name: str, dynamic: bool) -> None:
    check_adjoint(SHAPING[name], (2, 4, 4, 5), dynamic=dynamic, opset=18)
