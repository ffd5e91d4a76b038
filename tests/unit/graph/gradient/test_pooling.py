"""Pools of every geometry, means and sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import GraphBuilder
from tests.unit.graph.gradient.cases import check, check_adjoint, unary, windows


@given(windows(), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=40)
def test_average_pools_of_every_geometry(window: dict[str, Any], count_include_pad: bool, dynamic: bool) -> None:
    pads = [min(pad, (window["kernel"] * 2)[axis] - 1) for axis, pad in enumerate(window["pads"])]
    body = unary(
        "AveragePool",
        kernel_shape=window["kernel"],
        strides=window["strides"],
        pads=pads,
        count_include_pad=int(count_include_pad),
    )
    known = not dynamic or count_include_pad or not any(pads)
    check_adjoint(body, (2, 3, *window["hw"]), dynamic=dynamic and known)


@given(windows(), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=40)
def test_max_pools_of_every_geometry_overlapping_ones_too(window: dict[str, Any], ceil: bool, dynamic: bool) -> None:
    # Shape inference counts windows that begin outside the image, which no runtime makes.
    spans = [d * (k - 1) + 1 for d, k in zip(window["dilations"], window["kernel"], strict=True)]
    strides = [min(s, span) if ceil else s for s, span in zip(window["strides"], spans, strict=True)]
    pads = [min(pad, (window["kernel"] * 2)[axis] - 1) for axis, pad in enumerate(window["pads"])]
    body = unary(
        "MaxPool",
        kernel_shape=window["kernel"],
        strides=strides,
        pads=[0] * 4 if ceil else pads,
        dilations=window["dilations"],
        ceil_mode=int(ceil),
    )
    check_adjoint(body, (2, 3, *window["hw"]), dynamic=dynamic, kink=True)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_pools_that_pad_by_themselves(mode: str) -> None:
    pool = {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": mode}
    check_adjoint(unary("AveragePool", **pool), (2, 3, 6, 7))
    check_adjoint(unary("MaxPool", **pool), (2, 3, 6, 7), kink=True)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21])
def test_means_and_sums_in_every_dialect(opset: int) -> None:
    for op in ("ReduceMean", "ReduceSum"):
        for keepdims in (0, 1):

            def body(build: GraphBuilder, x: str, op: str = op, keepdims: int = keepdims) -> str:
                if opset >= (18 if op == "ReduceMean" else 13):
                    axes = build.constant("axes", np.asarray([2, -1]))
                    return build.node(op, [x, axes], "r", keepdims=keepdims)
                return build.node(op, [x], "r", axes=[2, -1], keepdims=keepdims)

            check(body, (2, 3, 4, 5), opset=opset)
