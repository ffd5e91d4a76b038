"""Operators that work element by element, and what broadcasting does to their gradients."""

from __future__ import annotations

import pytest

from tests.models import GraphBuilder
from tests.unit.graph.gradient.cases import Body, check, unary, weighted

ELEMENTWISE = {
    "relu": unary("Relu"),
    "leaky relu": unary("LeakyRelu", alpha=0.3),
    "sigmoid": unary("Sigmoid"),
    "tanh": unary("Tanh"),
    "hard sigmoid": unary("HardSigmoid", alpha=0.4, beta=0.3),
    "hard swish": unary("HardSwish"),
    "softmax": unary("Softmax", axis=1),
    "identity": unary("Identity"),
    "dropout": unary("Dropout"),
    "added to a channel": weighted("Add", (3, 1, 1)),
    "stretched by what it is added to": weighted("Add", (2, 2, 3, 4, 5)),
    "less a channel": weighted("Sub", (3, 1, 1)),
    "a scalar less it": weighted("Sub", (), first=False),
    "times a channel": weighted("Mul", (1, 3, 1, 1)),
    "over a channel": weighted("Div", (3, 1, 1)),
    "clipped": lambda build, x: build.node(
        "Clip", [x, build.constant("low", build.dtype.type(-0.5)), build.constant("high", build.dtype.type(0.7))], "c"
    ),
    "clipped from above": lambda build, x: build.node(
        "Clip", [x, "", build.constant("high", build.dtype.type(0.7))], "c"
    ),
    "normalized": lambda build, x: build.batch_norm(x, "bn", 3),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_operators_that_work_element_by_element(name: str, dynamic: bool) -> None:
    check(ELEMENTWISE[name], (2, 3, 4, 5), dynamic=dynamic)


def _divided(build: GraphBuilder, x: str) -> str:
    shifted = build.node("Add", [build.node("Mul", [x, x], "square"), build.constant("one", build.dtype.type(1))], "d")
    return build.node("Div", [x, shifted], "ratio")


def _squeeze_and_excite(build: GraphBuilder, x: str) -> str:
    gate = build.node("Sigmoid", [build.node("GlobalAveragePool", [x], "mean")], "gate")
    return build.node("Mul", [x, gate], "excited")


def _difference(build: GraphBuilder, x: str) -> str:
    mean = build.node("GlobalAveragePool", [x], "mean")
    return build.node("Sub", [build.node("Tanh", [x], "tanh"), mean], "difference")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("body", [_divided, _squeeze_and_excite, _difference])
def test_both_operands_get_their_part_summed_to_their_shape(body: Body, dynamic: bool) -> None:
    check(body, (2, 3, 4, 5), dynamic=dynamic)


def test_what_is_stretched_over_missing_axes_is_summed_over_them() -> None:
    def body(build: GraphBuilder, x: str) -> str:
        wide = build.constant("wide", build.rng.standard_normal((4, 2, 3, 1)).astype(build.dtype))
        return build.node("Mul", [x, wide], "wider")

    check(body, (2, 3, 5))
    check(body, (2, 3, 5), dynamic=True)
