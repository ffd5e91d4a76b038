"""What is built is what the plan says, bit for bit, as often as it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from ranksmith.data.loader import Batch
from ranksmith.data.npz import ArrayDataset
from ranksmith.data.split import split
from ranksmith.errors import ModelError, NodeNotFoundError, RankError, UsageError
from ranksmith.graph import io
from ranksmith.graph.query import conv_infos, conv_layer
from ranksmith.lowrank.fisher import GradientStatistics
from ranksmith.progress import Silent
from ranksmith.results import PlanEntry, Precision, RankPlan
from ranksmith.workflow import build
from ranksmith.workflow.build import Builder, entries_by_node
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.decompose import decompose, load_folded
from ranksmith.workflow.fisher import gather_fisher
from ranksmith.workflow.images import ImageSet
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Statistics, gather
from tests.models import GraphBuilder, run, save
from tests.unit.workflow.scene import PREPROCESS, Array, inputs_of, network, pictures

PICTURES = pictures(24)
DATA = ArrayDataset("pictures", PICTURES)
IMAGES = ImageSet(DATA, np.arange(24), PREPROCESS, 4)
NODES = ("block0/conv1", "block1/conv1", "block1/conv2")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource(path=save(network(), tmp_path_factory.mktemp("model") / "model.onnx"), name="model")


@pytest.fixture(scope="module")
def folded(source: ModelSource) -> ir.Model:
    return load_folded(source)[0]


@pytest.fixture(scope="module")
def statistics(folded: ir.Model) -> Statistics:
    found = gather(
        folded, {node: ["output", "input"] for node in NODES}, dataset=DATA, indices=np.arange(24),
        preprocess=PREPROCESS, threads=1, progress=Silent(),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for node in NODES:
        channels = conv_layer(folded, node).out_channels
        found.fisher[node] = GradientStatistics(channels)
        # Few directions matter, so that a fit in this metric is another one.
        found.fisher[node].update(
            rng.standard_normal((50, channels, 1, 1)) * np.exp(-np.arange(channels))[:, None, None]
        )
    return found


def builder(folded: ir.Model, statistics: Statistics, **options: Any) -> Builder:
    return Builder(folded, statistics, **({"images": IMAGES.batches, "threads": 1} | options))


def entry(
    node: str, rank: int | None = 6, kind: str | None = "output-pca", precision: Precision | None = None
) -> PlanEntry:
    return PlanEntry(node=node, kind=kind if rank else None, rank=rank, precision=precision)


def plan_of(*layers: PlanEntry, **options: Any) -> RankPlan:
    return RankPlan(layers=list(layers), **options)


MIXED = plan_of(
    entry("block1/conv2", 8, "spatial-vertical"),
    entry("block0/conv1", 6),
    entry("block1/conv1", 8, "input-side"),
    rounds=1,
    weighted=True,
)
INT8 = msgspec.structs.replace(MIXED, precision="int8", ranges="entropy")


def weights_of(content: bytes) -> dict[str, Array]:
    """Weight of each Conv; of a quantized one the values that it stands for."""
    graph = onnx.load_from_string(content).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays:
            values, scale = arrays[node.input[0]], arrays[node.input[1]]
            arrays[node.output[0]] = values.astype(np.float32) * scale.reshape(-1, *[1] * (values.ndim - 1))
    return {node.name: arrays[node.input[1]] for node in graph.node if node.op_type == "Conv"}


def integer_convs(content: bytes) -> set[str]:
    """Convs that read their input from integers."""
    graph = onnx.load_from_string(content).graph
    made = {value: node.op_type for node in graph.node for value in node.output}
    return {
        node.name for node in graph.node if node.op_type == "Conv" and made.get(node.input[1]) == "DequantizeLinear"
    }


def scores(model: bytes | Path) -> Array:
    return run(model, {"image": inputs_of(PICTURES)})["scores"]


@pytest.mark.parametrize("plan", [MIXED, INT8], ids=["fp32", "int8"])
def test_a_plan_builds_the_same_bytes_every_time_and_from_the_cache(
    folded: ir.Model, statistics: Statistics, tmp_path: Path, plan: RankPlan
) -> None:
    first, changes = builder(folded, statistics).build(plan)
    assert builder(folded, statistics).build(plan) == (first, changes)
    cache = Cache(tmp_path)
    cached = builder(folded, statistics, cache=cache, key="these")
    assert cached.build(plan) == (first, changes)
    assert cached.build(plan) == (first, changes)
    # Whoever has the chains needs no statistics.
    assert builder(folded, Statistics(), cache=cache, key="these").build(plan) == (first, changes)


def test_chains_of_other_statistics_are_not_taken_from_the_cache(
    folded: ir.Model, statistics: Statistics, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    builder(folded, statistics, cache=cache, key="these").build(MIXED)
    with pytest.raises(KeyError):
        builder(folded, Statistics(), cache=cache, key="others").build(MIXED)


def test_prepared_factors_are_in_the_cache_and_made_once(
    folded: ir.Model, statistics: Statistics, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    for entry_ in MIXED.layers:
        assert entry_.kind is not None
        assert entry_.rank is not None
        builder(folded, statistics, cache=cache, key="these").prepare(
            entry_.node, entry_.kind, entry_.rank, weighted=True, rounds=1
        )
        # Neither needs statistics: one has the factors, the other nowhere to put them.
        for keeping in (cache, None):
            builder(folded, Statistics(), cache=keeping, key="these").prepare(
                entry_.node, entry_.kind, entry_.rank, weighted=True, rounds=1
            )
    expected = builder(folded, statistics).build(MIXED)
    assert builder(folded, Statistics(), cache=cache, key="these").build(MIXED) == expected


def test_a_chain_comes_out_of_the_cache_as_it_was(folded: ir.Model, statistics: Statistics, tmp_path: Path) -> None:
    layer = changed(
        conv_layer(folded, "block0/conv1"), strides=(2, 1), pads=(1, 2, 0, 1), dilations=(1, 2), bias=None, group=1
    )
    arrays = build._arrays_of((layer, conv_layer(folded, "block0/conv2")))
    Cache(tmp_path).put_arrays("chain", arrays)
    first, second = build._chain_of(Cache(tmp_path).arrays("chain") or {})
    assert (first.strides, first.pads, first.dilations, first.group) == ((2, 1), (1, 2, 0, 1), (1, 2), 1)
    assert first.bias is None
    assert second.bias is not None
    np.testing.assert_array_equal(first.weight, layer.weight)


def test_the_folded_model_is_left_as_it_was(folded: ir.Model, statistics: Statistics) -> None:
    before = io.to_bytes(folded)
    builder(folded, statistics).build(INT8)
    assert io.to_bytes(folded) == before


def test_convs_are_replaced_in_the_models_order(folded: ir.Model, statistics: Statistics) -> None:
    content, changes = builder(folded, statistics).build(MIXED)
    assert [change.node for change in changes] == ["block0/conv1", "block1/conv1", "block1/conv2"]
    names = [info.node for info in conv_infos(io.from_bytes(content))]
    assert [name for name in names if "of2" in name] == [f"{node}/{i}of2" for node in NODES for i in (1, 2)]


def test_weighting_and_rounds_are_the_plans(folded: ir.Model, statistics: Statistics) -> None:
    plans = [
        plan_of(entry("block1/conv1", 6, "input-side"), weighted=w, rounds=r) for w in (False, True) for r in (0, 1)
    ]
    assert len({builder(folded, statistics).build(plan)[0] for plan in plans}) == 4


def test_without_a_metric_a_weighted_plan_is_the_plain_one(folded: ir.Model, statistics: Statistics) -> None:
    """Layers that cannot be differentiated are fitted to their own output."""
    plain = changed(statistics, fisher={}, _factorizers={})
    weighted = plan_of(entry("block1/conv1", 6), weighted=True)
    expected = builder(folded, plain).build(msgspec.structs.replace(weighted, weighted=False))
    assert builder(folded, plain).build(weighted) == expected
    assert builder(folded, statistics).build(weighted) != expected


def test_an_int8_model_answers_as_the_float_one(folded: ir.Model, statistics: Statistics) -> None:
    floating = scores(builder(folded, statistics).build(MIXED)[0])
    content, _ = builder(folded, statistics).build(INT8)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert integer_convs(content) == set(weights_of(content))
    difference = scores(content) - floating
    # Weights have seven bits where the CPU would saturate, so what is right on one machine is twice as far off there.
    assert np.linalg.norm(difference) < 0.15 * np.linalg.norm(floating - floating.mean(0))


def test_layers_that_a_plan_keeps_float_are_float(folded: ir.Model, statistics: Statistics) -> None:
    plan = plan_of(
        entry("block0/conv1", precision="fp32"),
        entry("block0/conv2", None, precision="fp32"),
        entry("block1/conv1", precision="int8"),
        entry("block1/conv2", None, precision="int8"),
        precision="int8",
    )
    content, changes = builder(folded, statistics).build(plan)
    every = set(weights_of(content))
    assert every - integer_convs(content) == {"block0/conv1/1of2", "block0/conv1/2of2", "block0/conv2"}
    assert [change.node for change in changes] == ["block0/conv1", "block1/conv1"]
    assert np.isfinite(scores(content)).all()
    floating = weights_of(builder(folded, statistics).build(plan_of(entry("block0/conv1")))[0])
    for name in ("block0/conv1/1of2", "block0/conv1/2of2", "block0/conv2"):
        np.testing.assert_array_equal(weights_of(content)[name], floating[name])


def test_factors_are_rotated_where_they_become_integers(folded: ir.Model, statistics: Statistics) -> None:
    plan = plan_of(entry("block1/conv1"), precision="int8", seed=3)
    floating = weights_of(builder(folded, statistics).build(plan_of(entry("block1/conv1")))[0])
    one, other = (
        weights_of(builder(folded, statistics).build(msgspec.structs.replace(plan, seed=seed))[0]) for seed in (3, 4)
    )
    parts = [f"block1/conv1/{index}of2" for index in (1, 2)]

    def spread(weights: dict[str, Array]) -> float:
        """How unequal the channels between the factors are."""
        energy = np.sum(weights[parts[0]] ** 2, axis=(1, 2, 3))
        return float(energy.max() / energy.min())

    def product(weights: dict[str, Array]) -> Array:
        return np.einsum("or,riyx->oiyx", weights[parts[1]][:, :, 0, 0], weights[parts[0]])

    assert spread(one) < spread(floating)
    assert not np.allclose(one[parts[0]], other[parts[0]], atol=1e-3)
    for rotated in (one, other):
        np.testing.assert_allclose(product(rotated), product(floating), atol=0.02 * np.abs(product(floating)).max())


def test_the_seed_of_rotations_is_the_plans_or_else_the_builders(folded: ir.Model, statistics: Statistics) -> None:
    plan = plan_of(entry("block1/conv1"), precision="int8")
    said = msgspec.structs.replace(plan, seed=5)
    assert builder(folded, statistics, seed=5).build(plan) == builder(folded, statistics, seed=9).build(said)
    assert builder(folded, statistics, seed=5).build(plan) != builder(folded, statistics, seed=9).build(plan)


def test_an_int8_plan_without_images_says_what_to_do(folded: ir.Model, statistics: Statistics) -> None:
    with pytest.raises(UsageError, match="images") as caught:
        builder(folded, statistics, images=None).build(INT8)
    assert "--data" in str(caught.value.hint)
    # A float plan needs none.
    builder(folded, statistics, images=None).build(MIXED)


def test_ranges_come_from_the_first_images(
    folded: ir.Model, statistics: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_RANGE_IMAGES", 8)
    seen = []

    def batches() -> Iterator[Batch]:
        for batch in IMAGES.batches():
            seen.append(len(batch))
            yield batch

    content = io.to_bytes(folded)
    histograms = builder(folded, statistics, images=batches).histograms(content)
    assert histograms.images == sum(seen) == 8
    assert "image" in histograms.ranges("minmax")


def test_ranges_of_the_folded_model_are_found_once_and_serve_every_plan(
    folded: ir.Model, statistics: Statistics
) -> None:
    passes = []

    def batches() -> Iterator[Batch]:
        passes.append(None)
        return IMAGES.batches()

    made = builder(folded, statistics, images=batches)
    only_int8 = plan_of(precision="int8", ranges=INT8.ranges)
    alone, _ = made.build(only_int8)
    content, _ = made.build(INT8)
    assert len(passes) == 2  # the folded model, and what is new in the plan
    assert made.build(only_int8)[0] == alone
    assert made.build(INT8)[0] == content
    assert len(passes) == 3
    scales, before = scales_of(content), scales_of(alone)
    assert {name: scales[name] for name in before} == before
    between = scales.keys() - before.keys()
    assert len(between) == len(INT8.layers)
    assert all(name.endswith("/1of2") for name in between)


def test_values_between_factors_have_the_range_that_they_take(folded: ir.Model, statistics: Statistics) -> None:
    plan = plan_of(entry("block1/conv1"), precision="int8", seed=3)
    content, _ = builder(folded, statistics).build(plan)
    floating = io.from_bytes(content_of_factors(folded, statistics, plan))
    node = next(node for node in floating.graph if node.name == "block1/conv1/1of2")
    value = node.outputs[0]
    floating.graph.outputs.append(value)
    seen = run(io.to_bytes(floating), {"image": inputs_of(PICTURES)})[value.name or ""]
    span = max(float(seen.max()), 0.0) - min(float(seen.min()), 0.0)
    assert scales_of(content)[value.name or ""] == pytest.approx(span / 255, rel=1e-4)


def scales_of(content: bytes) -> dict[str, float]:
    """The scale of every activation, by the value's name."""
    graph = onnx.load_from_string(content).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node.input for node in graph.node if node.op_type == "QuantizeLinear"]
    return {scale.removesuffix("_scale"): float(arrays[scale]) for _, scale, _ in pairs}


def content_of_factors(folded: ir.Model, statistics: Statistics, plan: RankPlan) -> bytes:
    """The float model whose factors are rotated as an int8 plan's are."""
    layers = [msgspec.structs.replace(layer, precision="int8") for layer in plan.layers]
    return builder(folded, statistics).build(msgspec.structs.replace(plan, layers=layers, precision="fp32"))[0]


def test_a_plan_that_does_not_fit_the_model_is_refused(folded: ir.Model, statistics: Statistics) -> None:
    made = builder(folded, statistics)
    with pytest.raises(NodeNotFoundError, match="block0/conv9"):
        made.build(plan_of(entry("block0/conv9")))
    with pytest.raises(UsageError, match="block0/conv1 twice"):
        made.build(plan_of(entry("block0/conv1"), entry("block0/conv1", 3)))
    with pytest.raises(RankError, match=r"^block0/conv1: rank 17 is outside 1\.\.16") as caught:
        made.build(plan_of(entry("block0/conv1", 17)))
    assert caught.value.hint


def test_entries_keep_the_plans_order() -> None:
    entries = entries_by_node(plan_of(entry("b"), entry("a", None)), ["a", "b", "c"])
    assert list(entries) == ["b", "a"]


def nested_names(folder: Path) -> ir.Model:
    """Two Convs, one of which is called as if it were a part of the other."""
    graph = GraphBuilder()
    x = graph.input("image", ["N", 3, 12, 12])
    x = graph.node("Relu", [graph.conv(x, "body", (3, 16), pads=[1] * 4)], "first")
    x = graph.node("Relu", [graph.conv(x, "body/inner", (16, 16), pads=[1] * 4)], "second")
    graph.output(graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "pool")], "scores"), ["N", 16])
    return load_folded(ModelSource(path=save(graph.model(), folder / "model.onnx"), name="model"))[0]


def test_a_conv_is_not_kept_float_for_its_name_beginning_as_another_s(tmp_path: Path) -> None:
    plan = plan_of(entry("body", None, precision="fp32"), precision="int8")
    content, _ = builder(nested_names(tmp_path), Statistics()).build(plan)
    assert integer_convs(content) == {"body/inner"}


WEIGHTED = plan_of(entry("block0/conv1"), entry("block1/conv2", 8, "input-side"), weighted=True, rounds=1)


@pytest.mark.parametrize(
    "plan",
    [
        MIXED,
        WEIGHTED,
        msgspec.structs.replace(
            WEIGHTED,
            precision="int8",
            ranges="percentile-99.99",
            layers=[*WEIGHTED.layers, entry("block1/conv1", None, precision="fp32")],
        ),
        plan_of(entry("block1/conv1", 8, "weight-svd"), precision="int8"),
        plan_of(precision="int8", ranges="entropy"),
    ],
    ids=["fp32", "weighted", "weighted-int8", "no-data-kind-int8", "only-int8"],
)
def test_decompose_rebuilds_what_the_builder_builds(source: ModelSource, folded: ir.Model, plan: RankPlan) -> None:
    """From the plan, the model and the images alone."""
    plan = msgspec.structs.replace(plan, calibration=20, seed=4)
    images = ImageSet(DATA, split(DATA, calibration=20, seed=4, calibration_only=True).calibration, PREPROCESS)
    candidates = [info.node for info in conv_infos(folded) if info.candidate]
    given: dict[str, Any] = {"dataset": DATA, "indices": images.indices, "preprocess": PREPROCESS, "threads": 1}
    given |= {"batch": images.batch, "progress": Silent()}
    statistics = gather(folded, {node: ["output", "input"] for node in candidates}, **given)
    if plan.weighted:
        statistics.fisher |= gather_fisher(folded, candidates, seed=4, **given)
    expected, changes = builder(folded, statistics, images=images.batches).build(plan)
    model, report = decompose(
        source, plan, dataset=DATA, preprocess=PREPROCESS, calibration=7, fold=True, threads=1, seed=0,
        progress=Silent(),
    )  # fmt: skip
    assert io.to_bytes(model) == io.to_bytes(io.from_bytes(expected))
    assert report.changed[len(report.changed) - len(changes) :] == changes
    assert np.isfinite(scores(expected)).all()


def test_a_conv_that_cannot_be_found_in_the_built_model_is_told(folded: ir.Model) -> None:
    with pytest.raises(ModelError, match="stay float"):
        build._kept(folded, ["block0/conv1", "gone"])
