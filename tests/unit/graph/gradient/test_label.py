"""Labels drawn in the graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ranksmith.graph.gradient import DRAW, gradient_name, score_model
from tests.models import residual_classifier, run


@pytest.mark.parametrize("probabilities", [False, True])
def test_labels_are_drawn_from_the_models_own_answers(probabilities: bool) -> None:
    model = residual_classifier(widths=(4,), classes=5)
    if probabilities:
        softmax = onnx.helper.make_node("Softmax", ["logits"], ["p"], "softmax", axis=1)
        model.graph.node.extend([softmax, onnx.helper.make_node("Identity", ["p"], ["out"], "last")])
        model.graph.output[0].name = "out"
    output = model.graph.output[0].name
    made, _ = score_model(ir.from_proto(model), ["logits"], output)
    rng = np.random.default_rng(0)
    x, draws = rng.standard_normal((64, 3, 16, 16)).astype(np.float32), rng.random((64, 1)).astype(np.float32)
    draws[:2] = [[0], [1 - 1e-7]]
    found = run(ir.to_proto(made), {"x": x, DRAW: draws}, optimize=True)[gradient_name("logits")]
    logits = run(residual_classifier(widths=(4,), classes=5), {"x": x})["logits"].astype(np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    labels = (np.cumsum(p, axis=1) <= draws).sum(1).clip(max=4)
    np.testing.assert_allclose(found, p - np.eye(5)[labels], atol=2e-6)
