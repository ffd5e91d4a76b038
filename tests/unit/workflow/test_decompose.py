"""Applying a rank plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from ranksmith.data.dataset import open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import ModelError, NodeNotFoundError, RankError, UsageError
from ranksmith.graph.io import to_bytes
from ranksmith.lowrank.factor import KINDS
from ranksmith.progress import Silent
from ranksmith.results import PassReport, PlanEntry, RankPlan
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.decompose import decompose
from ranksmith.workflow.source import ModelSource
from tests.integration.compress.desk import Listener
from tests.models import GraphBuilder, node_types, run, save
from tests.unit.workflow.scene import PREPROCESS, Net, inputs_of, network, pictures

IMAGES = pictures(24)
FULL = {"output-pca": 16, "weight-svd": 16, "input-side": 16, "tucker2": 16}


def source_of(folder: Path, model: onnx.ModelProto | None = None) -> ModelSource:
    return ModelSource(path=save(model or network(), folder / "model.onnx"), name="model")


def plan_of(*entries: tuple[str, str, int]) -> RankPlan:
    return RankPlan(layers=[PlanEntry(node=node, kind=kind, rank=rank) for node, kind, rank in entries])


def decomposed(source: ModelSource, plan: RankPlan, **options: Any) -> tuple[bytes, PassReport]:
    given: dict[str, Any] = {"dataset": ArrayDataset("pictures", IMAGES), "preprocess": PREPROCESS, "calibration": 20}
    given |= {"fold": True, "threads": 1, "seed": 0, "progress": Silent()}
    model, report = decompose(source, plan, **(given | options))
    return to_bytes(model), report


def outputs(model: bytes | Path) -> np.ndarray[Any, Any]:
    return run(model, {"image": inputs_of(IMAGES)})["scores"]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("node", ["block1/conv1", "block1/shortcut"])
def test_full_rank_of_every_kind_gives_the_same_outputs(tmp_path: Path, kind: str, node: str) -> None:
    source = source_of(tmp_path)
    with pytest.raises(RankError) as caught:
        decomposed(source, plan_of((node, kind, 10_000)))
    full = int(str(caught.value).split("1..")[1].split()[0])
    built, report = decomposed(source, plan_of((node, kind, full)))
    expected, actual = outputs(source.path), outputs(built)
    assert np.max(np.abs(actual - expected)) <= 1e-4 * np.max(np.abs(expected))
    onnx.checker.check_model(onnx.load_from_string(built), full_check=True)
    assert any(change.node == node and "became" in change.what for change in report.changed)


def test_names_and_the_symbolic_batch_survive(tmp_path: Path) -> None:
    built, _ = decomposed(source_of(tmp_path), plan_of(("block0/conv1", "output-pca", 4)))
    graph = onnx.load_from_string(built).graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["scores"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert "BatchNormalization" not in node_types(onnx.load_from_string(built))
    names = [node.name for node in graph.node]
    assert {"block0/conv1/1of2", "block0/conv1/2of2"} <= set(names)
    assert "block0/conv1" not in names


def test_without_folding_batch_normalization_stays(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    built, _ = decomposed(source, plan_of(("block0/conv1", "output-pca", 16)), fold=False)
    assert node_types(onnx.load_from_string(built)).count("BatchNormalization") == 6
    np.testing.assert_allclose(outputs(built), outputs(source.path), rtol=1e-3, atol=1e-3)


def test_several_layers_by_several_kinds(tmp_path: Path) -> None:
    plan = plan_of(
        ("block1/conv2", "input-side", 8), ("block0/conv1", "weight-svd", 8), ("block0/conv2", "output-pca", 8)
    )
    built, report = decomposed(source_of(tmp_path), plan)
    assert node_types(onnx.load_from_string(built)).count("Conv") == 9
    changed = [change.node for change in report.changed if "became" in change.what]
    assert changed == ["block0/conv1", "block0/conv2", "block1/conv2"]


def test_error_falls_as_the_rank_grows(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    expected = outputs(source.path)
    errors = [
        float(np.linalg.norm(outputs(decomposed(source, plan_of(("block1/conv2", "output-pca", rank)))[0]) - expected))
        for rank in (1, 4, 12, 32)
    ]
    assert errors == sorted(errors, reverse=True)


def test_the_same_seed_gives_the_same_bytes_and_the_seed_matters(tmp_path: Path) -> None:
    source, plan = source_of(tmp_path), plan_of(("block0/conv1", "output-pca", 4))
    first, second, other = (decomposed(source, plan, calibration=8, seed=seed)[0] for seed in (0, 0, 1))
    assert first == second
    assert first != other


def test_the_order_of_the_images_does_not_matter(tmp_path: Path) -> None:
    source, plan = source_of(tmp_path), plan_of(("block0/conv1", "output-pca", 4))
    turned = ArrayDataset("pictures", IMAGES[::-1].copy())
    straight, reversed_ = (
        outputs(decomposed(source, plan, calibration=8, **more)[0]) for more in ({}, {"dataset": turned})
    )
    np.testing.assert_allclose(straight, reversed_, rtol=1e-4, atol=1e-4)


def test_weight_svd_needs_no_images(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    built, _ = decomposed(source, plan_of(("block0/conv1", "weight-svd", 16)), dataset=None, preprocess=None)
    np.testing.assert_allclose(outputs(built), outputs(source.path), rtol=1e-3, atol=1e-3)


def test_a_data_aware_kind_without_images_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="output-pca needs calibration images") as caught:
        decomposed(source_of(tmp_path), plan_of(("block0/conv1", "output-pca", 4)), dataset=None, preprocess=None)
    assert "--data" in str(caught.value.hint)


def test_an_int8_plan_without_images_says_what_to_do(tmp_path: Path) -> None:
    for entries in ((), (("block0/conv1", "weight-svd", 4),)):
        plan = msgspec.structs.replace(plan_of(*entries), precision="int8")
        with pytest.raises(UsageError, match="an int8 plan needs calibration images") as caught:
            decomposed(source_of(tmp_path), plan, dataset=None, preprocess=None)
        assert "--data" in str(caught.value.hint)


def test_the_plans_own_images_and_seed_count(tmp_path: Path) -> None:
    """What the command line says is for plans that do not."""
    source, plan = source_of(tmp_path), plan_of(("block0/conv1", "output-pca", 4))
    said = msgspec.structs.replace(plan, calibration=8, seed=0)
    expected = decomposed(source, plan, calibration=8, seed=0)
    assert decomposed(source, said, calibration=20, seed=1) == expected
    assert decomposed(source, plan, calibration=20, seed=0) != expected
    assert decomposed(source, plan, calibration=8, seed=1) != expected


def test_a_weighted_plan_is_fitted_to_the_answer(tmp_path: Path) -> None:
    source, plan = source_of(tmp_path), plan_of(("block1/conv2", "output-pca", 4))
    plain, weighted = (
        outputs(decomposed(source, msgspec.structs.replace(plan, weighted=weighted))[0]) for weighted in (False, True)
    )
    expected = outputs(source.path)
    assert np.linalg.norm(weighted - plain) > 1e-3 * np.linalg.norm(expected)
    assert np.linalg.norm(weighted - expected) < 0.5 * np.linalg.norm(expected - expected.mean(0))


def test_the_plan_says_how_often_factors_are_refined(tmp_path: Path) -> None:
    source, plan = source_of(tmp_path), plan_of(("block1/conv2", "spatial-vertical", 6))
    expected = outputs(source.path)
    errors = [
        np.linalg.norm(outputs(decomposed(source, msgspec.structs.replace(plan, rounds=rounds))[0]) - expected)
        for rounds in (0, 1)
    ]
    assert errors[0] != errors[1]


def test_images_that_cannot_be_read_are_told_once_for_statistics_and_ranges(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, image in enumerate(IMAGES[:6]):
        Image.fromarray(image).save(tmp_path / "data" / f"{number}.png")
    (tmp_path / "data" / "9.png").write_bytes(b"not a png")
    plan = msgspec.structs.replace(plan_of(("block0/conv1", "output-pca", 8)), precision="int8", weighted=True)
    listener = Silent()
    built, _ = decomposed(source_of(tmp_path), plan, dataset=open_dataset(tmp_path / "data"), progress=listener)
    assert np.isfinite(outputs(built)).all()
    assert len(listener.warnings) == 1


def test_a_node_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NodeNotFoundError, match="block0/conv3") as caught:
        decomposed(source_of(tmp_path), plan_of(("block0/conv3", "output-pca", 4)))
    assert "block0/conv" in str(caught.value.hint)


def test_a_node_that_is_no_conv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fc"):
        decomposed(source_of(tmp_path), plan_of(("fc", "output-pca", 4)))


def test_a_node_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="block0/conv1 twice"):
        decomposed(source_of(tmp_path), plan_of(("block0/conv1", "output-pca", 4), ("block0/conv1", "weight-svd", 4)))


def test_an_unknown_kind_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="magic") as caught:
        decomposed(source_of(tmp_path), plan_of(("block0/conv1", "magic", 4)))
    assert "output-pca" in str(caught.value.hint)


@pytest.mark.parametrize("rank", [0, -1, 17])
def test_a_rank_outside_the_layers_is_refused(tmp_path: Path, rank: int) -> None:
    with pytest.raises(RankError, match=rf"rank {rank} is outside 1\.\.16"):
        decomposed(source_of(tmp_path), plan_of(("block0/conv1", "output-pca", rank)))


def test_an_empty_plan_only_folds(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    built, report = decomposed(source, RankPlan(layers=[]), dataset=None, preprocess=None)
    np.testing.assert_allclose(outputs(built), outputs(source.path), rtol=1e-3, atol=1e-3)
    assert all("folded" in change.what for change in report.changed)


def test_a_batch_that_is_fixed_to_one_is_calibrated_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    plan = plan_of(("block0/conv1", "output-pca", 4))
    fixed, _ = decomposed(source_of(tmp_path, network(Net(batch=1))), plan)
    free, _ = decomposed(source_of(tmp_path / "any"), plan)
    image = {"image": inputs_of(IMAGES[:1])}
    np.testing.assert_allclose(run(fixed, image)["scores"], run(free, image)["scores"], rtol=1e-3, atol=1e-3)


def test_another_fixed_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fixed batch of 4"):
        decomposed(source_of(tmp_path, network(Net(batch=4))), plan_of(("block0/conv1", "output-pca", 4)))


def test_only_the_planned_one_of_two_convs_that_share_a_weight_changes(tmp_path: Path) -> None:
    build = GraphBuilder()
    x = build.input("image", ["N", 3, 12, 12])
    x = build.node("Relu", [build.conv(x, "stem", (3, 8), pads=[1] * 4)], "first")
    x = build.node("Relu", [build.conv(x, "one", (8, 8), pads=[1] * 4)], "second")
    x = build.node("Conv", [x, "one_weight"], "two_out", name="two", pads=[1] * 4)
    build.output(build.node("Flatten", [build.node("GlobalAveragePool", [x], "pool")], "scores"), ["N", 8])
    source = source_of(tmp_path, build.model())
    built, _ = decomposed(source, plan_of(("one", "output-pca", 3)))
    graph = onnx.load_from_string(built).graph
    assert [node.name for node in graph.node if node.op_type == "Conv"] == ["stem", "one/1of2", "one/2of2", "two"]
    full, _ = decomposed(source, plan_of(("one", "output-pca", 8)))
    np.testing.assert_allclose(outputs(full), outputs(source.path), rtol=1e-3, atol=1e-4)


def test_grouped_convs_have_one_rank_a_group(tmp_path: Path) -> None:
    build = GraphBuilder()
    x = build.input("image", ["N", 3, 12, 12])
    x = build.node("Relu", [build.conv(x, "stem", (3, 16), pads=[1] * 4)], "first")
    x = build.conv(x, "grouped", (16, 16), group=2, pads=[1] * 4)
    build.output(build.node("Flatten", [build.node("GlobalAveragePool", [x], "pool")], "scores"), ["N", 16])
    source = source_of(tmp_path, build.model())
    for kind in KINDS:
        built, _ = decomposed(source, plan_of(("grouped", kind, 8 if kind in FULL else 24)))
        np.testing.assert_allclose(outputs(built), outputs(source.path), rtol=1e-3, atol=1e-4)
        assert all(
            next(item.i for item in node.attribute if item.name == "group") == 2
            for node in onnx.load_from_string(built).graph.node
            if node.name.startswith("grouped/")
        )


def test_the_source_file_is_left_as_it_was(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    before = source.path.read_bytes()
    decomposed(source, plan_of(("block0/conv1", "output-pca", 4)))
    assert source.path.read_bytes() == before


def test_half_precision_weights_stay_half_precision(tmp_path: Path) -> None:
    build = GraphBuilder(dtype=np.float16)
    build.inputs.append(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 12, 12]))
    x = build.node("Cast", ["image"], "half", to=onnx.TensorProto.FLOAT16)
    x = build.node("Relu", [build.conv(x, "stem", (3, 8), pads=[1] * 4)], "first")
    x = build.conv(x, "conv", (8, 8), bias=True, pads=[1] * 4)
    x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "pool")], "flat")
    build.node("Cast", [x], "scores", to=onnx.TensorProto.FLOAT)
    build.outputs.append(onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 8]))
    source = source_of(tmp_path, build.model())
    built, _ = decomposed(source, plan_of(("conv", "output-pca", 8)))
    np.testing.assert_allclose(outputs(built), outputs(source.path), rtol=0.02, atol=0.02)
    model = ir.from_proto(onnx.load_from_string(built))
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        assert value.const_value.dtype == ir.DataType.FLOAT16


def test_factors_made_before_are_taken_from_the_cache(tmp_path: Path) -> None:
    source, cache = source_of(tmp_path), Cache(tmp_path / "cache")
    plan = plan_of(("block1/conv1", "input-side", 8), ("block1/conv2", "output-pca", 8))
    first, again, bolder, unfolded = Listener(), Listener(), Listener(), Listener()
    alone = decomposed(source, plan)[0]
    assert decomposed(source, plan, cache=cache, progress=first)[0] == alone
    assert decomposed(source, plan, cache=cache, progress=again)[0] == alone
    assert first.stages == ["Gathering statistics"]
    assert again.stages == []
    # One factor is new, and those of the unfolded model are others.
    more = plan_of(("block1/conv1", "input-side", 8), ("block1/conv2", "output-pca", 4))
    assert decomposed(source, more, cache=cache, progress=bolder)[0] == decomposed(source, more)[0]
    assert bolder.stages == ["Gathering statistics"]
    decomposed(source, plan, cache=cache, progress=unfolded, fold=False)
    assert unfolded.stages == ["Gathering statistics"]
