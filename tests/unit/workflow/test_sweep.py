"""A sweep gives the errors that really building each decomposed model would give, without building any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from ranksmith.data.dataset import open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import DataError, ModelError, NodeNotFoundError, RankError, UsageError
from ranksmith.graph.io import to_bytes
from ranksmith.graph.query import conv_context, conv_layer
from ranksmith.lowrank.factor import KINDS, full_rank
from ranksmith.progress import Silent
from ranksmith.results import PlanEntry, RankPlan, SweepPoint, SweepReport
from ranksmith.workflow import sweep
from ranksmith.workflow.decompose import decompose, load_folded
from ranksmith.workflow.source import ModelSource
from tests.models import GraphBuilder, run, save
from tests.unit.workflow.scene import PREPROCESS, Array, Net, inputs_of, network, pictures

IMAGES = pictures(10)
DATA = ArrayDataset("pictures", IMAGES)
THRESHOLD = 0.05
Sweep = Callable[..., SweepReport]


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return ModelSource(path=save(network(), tmp_path / "model.onnx"), name="mine")


def swept(source: ModelSource, node: str, ranks: list[int], kind: str = "output-pca", **options: Any) -> SweepReport:
    given: dict[str, Any] = {"threshold": THRESHOLD, "limit": None, "threads": 1, "progress": Silent(), "batch": 4}
    data = options.pop("dataset", DATA)
    return sweep.run(source, data, PREPROCESS, node=node, ranks=ranks, kind=kind, **(given | options))


def both(model: bytes, layer: str, images: Array = IMAGES) -> tuple[Array, Array]:
    """(the layer's output, the model's output) by plain onnxruntime."""
    proto = onnx.load_from_string(model)
    if layer not in [value.name for value in proto.graph.output]:
        proto.graph.output.append(onnx.helper.make_tensor_value_info(layer, onnx.TensorProto.FLOAT, None))
    found = run(proto, {proto.graph.input[0].name: inputs_of(images)})
    return found[layer], next(value for name, value in found.items() if name != layer)


def rebuilt(source: ModelSource, node: str, kind: str, rank: int) -> tuple[bytes, str]:
    """The decomposed model, calibrated on all images, and the name of the layer's output."""
    plan = RankPlan(layers=[PlanEntry(node=node, kind=kind, rank=rank)])
    model, _ = decompose(
        source, plan, dataset=DATA, preprocess=PREPROCESS, calibration=len(IMAGES), fold=True, threads=1, seed=0,
        progress=Silent(),
    )  # fmt: skip
    return to_bytes(model), conv_context(load_folded(source)[0], node).output_value


def errors(exact: Array, value: Array) -> dict[str, float]:
    difference = np.abs(value.astype(np.float64) - exact)
    clipped = difference / np.maximum(np.abs(exact), THRESHOLD * np.max(np.abs(exact)))
    return {
        "clipped_relative": float(clipped.mean()),
        "mean_abs": float(difference.mean()),
        "max_abs": float(difference.max()),
        "l2": float(np.linalg.norm(difference)),
    }


def check(point: SweepPoint, source: ModelSource, node: str, kind: str) -> None:
    """`point` against really building the model."""
    model, layer = rebuilt(source, node, kind, point.rank)
    folded = to_bytes(load_folded(source)[0])
    (exact_layer, exact_output), (found_layer, found_output) = both(folded, layer), both(model, layer)
    on_layer, on_output = errors(exact_layer, found_layer), errors(exact_output, found_output)
    spread = np.linalg.norm(exact_layer - exact_layer.mean(axis=(0, 2, 3), keepdims=True))
    expected = {
        "layer_relative_l2": on_layer.pop("l2") / spread,
        "output_relative_l2": on_output.pop("l2") / np.linalg.norm(exact_output),
        **{f"layer_{name}": value for name, value in on_layer.items()},
        **{f"output_{name}": value for name, value in on_output.items()},
    }
    for name, value in expected.items():
        # Values and their differences are float32, so what is left of a tiny error is rounding.
        scale = float(np.max(np.abs(exact_layer if name.startswith("layer") else exact_output)))
        assert getattr(point, name) == pytest.approx(value, rel=5e-3, abs=2e-5 * max(1.0, scale)), name


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("node", ["block1/conv1", "block1/conv2"])
def test_errors_are_those_of_the_model_really_rebuilt(source: ModelSource, node: str, kind: str) -> None:
    # conv1's input also feeds the shortcut and conv2's output meets it in the Add, so both ways round the cut are used.
    report = swept(source, node, [3, 8], kind)
    assert [point.rank for point in report.points] == [3, 8]
    for point in report.points:
        check(point, source, node, kind)


@pytest.mark.parametrize("kind", ["output-pca", "weight-svd", "input-side", "spatial-vertical"])
def test_a_conv_that_reads_the_image_itself(source: ModelSource, kind: str) -> None:
    report = swept(source, "stem", [2], kind)
    check(report.points[0], source, "stem", kind)


@pytest.mark.parametrize("kind", list(KINDS))
def test_full_rank_has_no_error(source: ModelSource, kind: str) -> None:
    folded, _ = load_folded(source)
    full = full_rank(conv_layer(folded, "block1/conv1"), kind)
    report = swept(source, "block1/conv1", [1, full], kind)
    least, most = report.points[1], report.points[0]
    assert least.output_relative_l2 < 1e-4
    assert least.layer_relative_l2 < 1e-3
    assert most.output_relative_l2 > 10 * least.output_relative_l2
    assert least.macs_ratio > 1 > most.macs_ratio


def test_the_closed_form_of_output_pca_is_the_measured_error(source: ModelSource) -> None:
    report = swept(source, "block0/conv1", list(range(1, 17)))
    folded = to_bytes(load_folded(source)[0])
    layer = conv_context(load_folded(source)[0], "block0/conv1").output_value
    exact = both(folded, layer)[0].astype(np.float64)
    flat = exact.transpose(1, 0, 2, 3).reshape(16, -1)
    centred = flat - flat.mean(1, keepdims=True)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    closed = np.sqrt(np.clip(1 - np.cumsum(values) / values.sum(), 0, 1))
    found = [point.layer_relative_l2 for point in report.points]
    np.testing.assert_allclose(found, closed, rtol=1e-3, atol=1e-4)
    # What was measured along the way agrees: the mean absolute error falls with it and ends at nothing.
    means = [point.layer_mean_abs for point in report.points]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 1e-5


def test_output_pca_is_the_best_projection_of_the_layer(source: ModelSource) -> None:
    for rank in (2, 6):
        pca, svd = (swept(source, "block0/conv2", [rank], kind).points[0] for kind in ("output-pca", "weight-svd"))
        assert pca.layer_relative_l2 < svd.layer_relative_l2


def test_the_best_rank_is_one_of_those_cheaper_than_the_layer(source: ModelSource) -> None:
    report = swept(source, "block1/conv1", [2, 8, 16, 20, 28, 32])
    cheaper = {point.rank for point in report.points if point.macs_ratio < 1}
    assert cheaper == {2, 8, 16, 20}
    assert set(report.best.values()) <= cheaper
    assert report.best["layer_relative_l2"] == 20
    assert set(report.best) == {
        f"{where}_{what}"
        for where in ("layer", "output")
        for what in ("relative_l2", "clipped_relative", "mean_abs", "max_abs")
    }


def test_there_is_no_best_rank_where_none_is_cheaper(source: ModelSource) -> None:
    assert swept(source, "block1/conv1", [31, 32]).best == {}


def test_the_report_says_what_was_swept(source: ModelSource) -> None:
    report = swept(source, "block0/conv1", [4], limit=6)
    assert (report.model, report.node, report.kind, report.data) == ("mine", "block0/conv1", "output-pca", "pictures")
    assert (report.images, report.threshold) == (6, THRESHOLD)


def test_nothing_is_written(source: ModelSource, tmp_path: Path) -> None:
    swept(source, "block0/conv1", [4], "input-side")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("ranks", [[0], [4, 17], [-1]])
def test_ranks_outside_the_layers_are_refused_before_any_image_is_read(source: ModelSource, ranks: list[int]) -> None:
    with pytest.raises(RankError, match=r"outside 1\.\.16"):
        swept(source, "block0/conv1", ranks, dataset=None)


def test_unknown_nodes_and_kinds_are_refused(source: ModelSource) -> None:
    with pytest.raises(NodeNotFoundError, match="block0/conv9"):
        swept(source, "block0/conv9", [1])
    with pytest.raises(UsageError, match="magic"):
        swept(source, "block0/conv1", [1], "magic")
    with pytest.raises(ModelError, match="fc"):
        swept(source, "fc", [1])


def test_an_unreadable_image_is_skipped_and_told_once(source: ModelSource, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, image in enumerate(IMAGES[:4]):
        Image.fromarray(image).save(tmp_path / "data" / f"{number}.png")
    (tmp_path / "data" / "9.png").write_bytes(b"not a png")
    listener = Silent()
    report = swept(source, "block0/conv1", [4], dataset=open_dataset(tmp_path / "data"), progress=listener)
    assert report.images == 4
    assert len(listener.warnings) == 1
    assert "9.png" in listener.warnings[0]
    alone = swept(source, "block0/conv1", [4], dataset=ArrayDataset("four", IMAGES[:4]))
    assert report.points[0].output_relative_l2 == pytest.approx(alone.points[0].output_relative_l2, rel=1e-3)


def test_not_one_readable_image_is_an_error(source: ModelSource, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "9.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match="data"):
        swept(source, "block0/conv1", [4], dataset=open_dataset(tmp_path / "data"))


@pytest.mark.parametrize("kind", ["output-pca", "input-side"])
def test_a_batch_that_is_fixed_to_one_is_swept_image_by_image(source: ModelSource, tmp_path: Path, kind: str) -> None:
    fixed = ModelSource(path=save(network(Net(batch=1)), tmp_path / "one.onnx"), name="one")
    found, expected = (swept(which, "block1/conv1", [4], kind).points[0] for which in (fixed, source))
    assert found.output_relative_l2 == pytest.approx(expected.output_relative_l2, rel=1e-3)
    assert found.layer_max_abs == pytest.approx(expected.layer_max_abs, rel=1e-3)


@pytest.mark.parametrize("kind", ["output-pca", "weight-svd", "input-side"])
def test_a_layer_in_half_precision(tmp_path: Path, kind: str) -> None:
    build = GraphBuilder(dtype=np.float16)
    build.inputs.append(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 12, 12]))
    x = build.node("Cast", ["image"], "half", to=onnx.TensorProto.FLOAT16)
    x = build.node("Relu", [build.conv(x, "stem", (3, 16), pads=[1] * 4)], "first")
    x = build.conv(x, "conv", (16, 16), bias=True, pads=[1] * 4)
    x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "pool")], "flat")
    build.node("Cast", [x], "scores", to=onnx.TensorProto.FLOAT)
    build.outputs.append(onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 16]))
    source = ModelSource(path=save(build.model(), tmp_path / "half.onnx"), name="half")
    few, full = swept(source, "conv", [2, 16], kind).points
    assert full.layer_relative_l2 < 0.02 < few.layer_relative_l2


@pytest.mark.parametrize("kind", ["output-pca", "input-side"])
def test_a_layer_whose_output_is_the_models(tmp_path: Path, kind: str) -> None:
    build = GraphBuilder()
    x = build.input("image", ["N", 3, 12, 12])
    x = build.node("Relu", [build.conv(x, "stem", (3, 16), pads=[1] * 4)], "first")
    build.output(build.conv(x, "conv", (16, 16), bias=True, pads=[1] * 4), ["N", 16, 12, 12])
    source = ModelSource(path=save(build.model(), tmp_path / "last.onnx"), name="last")
    for point in swept(source, "conv", [2, 16], kind).points:
        assert point.layer_max_abs == point.output_max_abs
        assert point.layer_mean_abs == point.output_mean_abs


def test_the_original_model_is_left_as_it_was(source: ModelSource) -> None:
    before = source.path.read_bytes()
    model = ir.load(source.path)
    swept(source, "block0/conv1", [4], "tucker2")
    assert source.path.read_bytes() == before
    assert len(model.graph.inputs) == 1
