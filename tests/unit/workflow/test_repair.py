"""Repairing a decomposed model without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from ranksmith.data.loader import Batch
from ranksmith.errors import DataError, NodeNotFoundError
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.fold import fold
from ranksmith.graph.io import to_bytes
from ranksmith.graph.query import conv_context, conv_layer
from ranksmith.lowrank.factor import factors
from ranksmith.progress import Silent
from ranksmith.results import Change
from ranksmith.runtime.session import Session, open_session
from ranksmith.workflow import repair as repair_module
from ranksmith.workflow.repair import repair
from tests.models import GraphBuilder, residual_classifier, run
from tests.unit.workflow.scene import inputs_of, network, pictures

IMAGES = inputs_of(pictures(40))
FRESH = inputs_of(pictures(40, seed=1))
NODES = ["block0/conv2", "block1/conv1", "block1/conv2", "block1/shortcut"]


def batches(images: NDArray[np.float32] = IMAGES, size: int = 8) -> list[Batch]:
    starts = range(0, len(images), size)
    return [Batch(np.arange(start, start + size), images[start : start + size], None) for start in starts]


def folded_model(proto: onnx.ModelProto) -> ir.Model:
    model = ir.serde.deserialize_model(proto)
    fold(model)
    return model


def decomposed(model: ir.Model, nodes: Sequence[str], share: float = 0.3) -> ir.Model:
    made = model.clone()
    for node in nodes:
        layer = conv_layer(model, node)
        full = min(layer.out_channels, layer.weight[0].size)
        replace_conv(made, node, factors(layer, "weight-svd", max(1, int(share * full))))
    return made


def repaired(model: ir.Model, made: ir.Model, nodes: Sequence[str], **options: Any) -> list[Change]:
    given: dict[str, Any] = {"batches": batches(), "threads": 1, "progress": Silent()}
    return repair(model, made, nodes, **(given | options))


def outputs(model: ir.Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    content = onnx.load_model_from_string(to_bytes(model))
    return next(iter(run(content, {content.graph.input[0].name: images}).values()))


def test_answers_on_other_images_come_closer_to_the_original() -> None:
    model = folded_model(residual_classifier(hw=(12, 12), batch_norm=False))
    made = decomposed(model, NODES)
    before, expected = outputs(made, FRESH), outputs(model, FRESH)
    untouched = to_bytes(model)
    shapes = [value.shape for value in made.graph.initializers.values()]
    changes = repaired(model, made, list(reversed(NODES)))
    assert [change.node for change in changes] == NODES
    assert all("squared error" in change.what for change in changes)
    assert to_bytes(model) == untouched
    assert [value.shape for value in made.graph.initializers.values() if value.name][: len(shapes)] == shapes
    after = outputs(made, FRESH)
    assert np.square(after - expected).sum() < 0.5 * np.square(before - expected).sum()


def test_it_is_deterministic() -> None:
    model = folded_model(network())
    nodes = [node.name or "" for node in model.graph if node.op_type == "Conv"][1:]
    found = []
    for _ in range(2):
        made = decomposed(model, nodes)
        assert repaired(model, made, nodes)
        found.append(to_bytes(made))
    assert found[0] == found[1]


def test_a_chain_that_loses_nothing_is_left_alone_in_all_that_matters() -> None:
    model = folded_model(residual_classifier(hw=(12, 12), batch_norm=False))
    made = decomposed(model, NODES[:1], share=1.0)
    repaired(model, made, NODES[:1])
    np.testing.assert_allclose(outputs(made, FRESH), outputs(model, FRESH), rtol=1e-3, atol=1e-4)


def test_the_error_behind_the_shortcut_is_made_good_by_the_last_conv_of_the_block() -> None:
    """The shortcut alone is damaged, by a constant; the bias of the Conv beside it takes most of it back."""
    model = folded_model(residual_classifier(hw=(12, 12), batch_norm=False))
    made = model.clone()
    shortcut = next(node for node in made.graph if node.name == "block1/shortcut")
    bias = shortcut.inputs[2]
    assert bias is not None
    assert bias.const_value is not None
    bias.const_value = ir.Tensor(bias.const_value.numpy() + np.float32(0.5), name=bias.name)
    before, expected = outputs(made, FRESH), outputs(model, FRESH)
    assert len(repaired(model, made, ["block1/conv2"])) == 1
    assert np.square(outputs(made, FRESH) - expected).sum() < 0.1 * np.square(before - expected).sum()


def test_a_conv_that_reads_the_images_and_one_before_the_output() -> None:
    build = GraphBuilder(seed=3)
    x = build.input("x", ["N", 3, 12, 12])
    build.output(build.conv(build.conv(x, "first", (3, 16)), "last", (16, 16)), ["N", 16, 8, 8])
    model = folded_model(build.model())
    made = decomposed(model, ["first", "last"])
    before, expected = outputs(made, FRESH), outputs(model, FRESH)
    assert repaired(model, made, ["first", "last"])
    assert np.square(outputs(made, FRESH) - expected).sum() < np.square(before - expected).sum()


def test_an_add_of_a_constant_or_of_another_shape_is_no_shortcut() -> None:
    build = GraphBuilder(seed=4)
    x = build.input("x", ["N", 3, 12, 12])
    first = build.node(
        "Relu", [build.node("Add", [build.conv(x, "first", (3, 16)), build.weights("c", (16, 1, 1))], "a")], "r"
    )
    pooled = build.node("GlobalAveragePool", [first], "pool")
    build.output(build.node("Add", [build.conv(first, "second", (16, 16)), pooled], "y"), ["N", 16, 8, 8])
    model = folded_model(build.model())
    nodes = ["first", "second"]
    made = decomposed(model, nodes)
    before, expected = outputs(made, FRESH), outputs(model, FRESH)
    assert repaired(model, made, nodes)
    assert np.square(outputs(made, FRESH) - expected).sum() < np.square(before - expected).sum()


def test_half_precision_stays() -> None:
    build = GraphBuilder(seed=5, dtype=np.float16)
    x = build.input("x", ["N", 3, 12, 12])
    build.output(
        build.node("Relu", [build.conv(build.conv(x, "first", (3, 16)), "last", (16, 16))], "y"), ["N", 16, 8, 8]
    )
    model = folded_model(build.model())
    made = decomposed(model, ["last"])
    halves = [Batch(batch.indices, batch.images.astype(np.float16), None) for batch in batches()]
    assert repaired(model, made, ["last"], batches=halves)
    last = next(node for node in made.graph if node.outputs[0].name == conv_context(model, "last").output_value)
    assert [value.dtype for value in last.inputs if value is not None] == [ir.DataType.FLOAT16] * 3


def test_every_conv_of_both_models_runs_at_most_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a shortcut that comes after what it is added to: the layer is fitted to their sum."""
    ran: list[str] = []

    def spying(content: bytes, *, threads: int) -> Session:
        ran.extend(node.name for node in onnx.load_model_from_string(content).graph.node if node.op_type == "Conv")
        return open_session(content, threads=threads)

    monkeypatch.setattr(repair_module, "open_session", spying)
    model = folded_model(residual_classifier(hw=(12, 12), batch_norm=False))
    made = decomposed(model, NODES)
    repaired(model, made, NODES)
    known = Counter(node.name for graph in (model.graph, made.graph) for node in graph if node.op_type == "Conv")
    assert ran
    again = Counter(ran) - known
    assert all("shortcut" in name for name in again)


def test_no_images_and_no_such_conv_are_told() -> None:
    model = folded_model(network())
    with pytest.raises(DataError, match="no images"):
        repaired(model, model.clone(), [], batches=[])
    with pytest.raises(NodeNotFoundError):
        repaired(model, model.clone(), ["nowhere"])
