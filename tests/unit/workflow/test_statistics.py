"""One pass over the images: what is gathered is what the activations say."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ranksmith.convolution import ConvLayer
from ranksmith.data.dataset import open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import DataError, ModelError
from ranksmith.graph.query import conv_context, conv_layer
from ranksmith.lowrank.columns import columns
from ranksmith.lowrank.factor import KINDS, Factorizer
from ranksmith.lowrank.fisher import GradientStatistics
from ranksmith.lowrank.statistics import InputStatistics
from ranksmith.progress import Silent
from ranksmith.workflow.decompose import load_folded
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Need, Statistics, gather, needs_of, passes
from tests.models import run, save
from tests.unit.workflow.scene import PREPROCESS, Array, Net, inputs_of, network, pictures, replace

NODES = ("stem", "block0/conv2", "block1/conv1", "block1/shortcut")
BOTH: list[Need] = ["output", "input"]


@pytest.fixture
def folded(tmp_path: Path) -> ir.Model:
    path = save(network(), tmp_path / "model.onnx")
    return load_folded(ModelSource(path=path, name="model"))[0]


def gathered(model: ir.Model, images: Array, needs: dict[str, list[Need]], **options: object) -> Statistics:
    given: dict[str, object] = {"dataset": ArrayDataset("pictures", images), "indices": np.arange(len(images))}
    given |= {"preprocess": PREPROCESS, "threads": 1, "progress": Silent(), "batch": 4}
    return gather(model, needs, **(given | options))  # type: ignore[arg-type]


def value_of(model: ir.Model, name: str, images: Array) -> Array:
    """An intermediate value, by plain onnxruntime."""
    if name == "image":
        return inputs_of(images)
    proto = ir.to_proto(model)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return run(proto, {"image": inputs_of(images)})[name]


def test_statistics_are_those_of_the_activations(folded: ir.Model) -> None:
    images = pictures(10)
    found = gathered(folded, images, dict.fromkeys(NODES, BOTH))
    assert found.images == 10
    for node in NODES:
        context, layer = conv_context(folded, node), conv_layer(folded, node)
        flat = value_of(folded, context.output_value, images).transpose(1, 0, 2, 3).reshape(layer.out_channels, -1)
        expected = np.cov(flat.astype(np.float64), bias=True)
        assert found.output[node].count == flat.shape[1]
        np.testing.assert_allclose(found.output[node].mean, flat.mean(1), atol=1e-4)
        np.testing.assert_allclose(found.output[node].covariance, expected, atol=1e-4 * expected.max())
        seen = columns(value_of(folded, context.input_value, images), layer)[0].astype(np.float64)
        expected = np.cov(seen, bias=True)
        np.testing.assert_allclose(found.input[node].mean[0], seen.mean(1), atol=1e-4)
        np.testing.assert_allclose(found.input[node].covariance[0], expected, atol=1e-4 * expected.max())


def test_only_what_was_asked_for_is_gathered(folded: ir.Model) -> None:
    found = gathered(folded, pictures(3), {"stem": ["input"], "block0/conv1": ["output"]})
    assert list(found.output) == ["block0/conv1"]
    assert list(found.input) == ["stem"]


def test_nothing_to_gather_is_nothing_to_run(folded: ir.Model) -> None:
    found = gathered(folded, pictures(3), {})
    assert not found.output
    assert not found.input


def test_the_model_is_left_as_it_was(folded: ir.Model) -> None:
    before = ir.to_proto(folded).SerializeToString()
    gathered(folded, pictures(2), dict.fromkeys(NODES, BOTH))
    assert ir.to_proto(folded).SerializeToString() == before


def test_the_size_of_a_batch_does_not_matter(folded: ir.Model) -> None:
    images = pictures(9)
    one, many = (gathered(folded, images, dict.fromkeys(NODES, BOTH), batch=size) for size in (1, 8))
    for node in NODES:
        np.testing.assert_allclose(one.output[node].covariance, many.output[node].covariance, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(one.input[node].covariance, many.input[node].covariance, rtol=1e-4, atol=1e-5)


def test_arrays_hold_everything_whatever_a_node_is_called(tmp_path: Path) -> None:
    model = network(Net(widths=(16,)))
    for node in model.graph.node:
        node.name = node.name.replace("block0/conv1", "a|b/../c d|output|")
    path = save(model, tmp_path / "model.onnx")
    folded = load_folded(ModelSource(path=path, name="model"))[0]
    node = "a|b/../c d|output|"
    found = gathered(folded, pictures(5), {node: BOTH, "block0/conv2": ["output"]})
    np.savez(tmp_path / "stored.npz", allow_pickle=False, **found.to_arrays())
    with np.load(tmp_path / "stored.npz") as stored:
        again = Statistics.from_arrays({node: conv_layer(folded, node)}, dict(stored))
    assert again.images == 5
    assert set(again.output) == {node, "block0/conv2"}
    assert set(again.input) == {node}
    np.testing.assert_array_equal(again.output[node].covariance, found.output[node].covariance)
    np.testing.assert_array_equal(again.input[node].covariance, found.input[node].covariance)


def test_unreadable_images_are_skipped_told_and_not_counted(folded: ir.Model, tmp_path: Path) -> None:
    images = pictures(6)
    (tmp_path / "data").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "data" / f"{number}.png")
    (tmp_path / "data" / "2.png").write_bytes(b"not a png")
    listener = Silent()
    found = gathered(
        folded,
        images,
        {"block0/conv1": ["output"]},
        dataset=open_dataset(tmp_path / "data"),
        progress=listener,
    )
    good = gathered(folded, np.delete(images, 2, axis=0), {"block0/conv1": ["output"]})
    assert found.images == 5
    np.testing.assert_allclose(found.output["block0/conv1"].mean, good.output["block0/conv1"].mean, rtol=1e-6)
    assert len(found.skipped) == 1
    assert "2.png" in found.skipped[0]
    assert len(listener.warnings) == 1
    assert "2.png" in listener.warnings[0]


def test_not_one_readable_image_is_an_error_that_names_one(folded: ir.Model, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"not a png")
    data = open_dataset(tmp_path / "data")
    with pytest.raises(DataError, match="not one image of data") as caught:
        gathered(folded, pictures(1), {"stem": ["output"]}, dataset=data)
    assert "a.png" in str(caught.value.hint)


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = network()
    replace(model, {"block0/conv1_weight": np.full((16, 16, 3, 3), np.nan)})
    path = save(model, tmp_path / "model.onnx")
    folded = load_folded(ModelSource(path=path, name="model"))[0]
    with pytest.raises(ModelError, match="not finite"):
        gathered(folded, pictures(3), {"block0/conv2": ["output"]})


def test_a_factorizer_is_made_once_and_those_of_the_last_node_are_kept(folded: ir.Model) -> None:
    found = gathered(folded, pictures(3), {"block0/conv1": BOTH, "block0/conv2": ["output"]})
    layer = conv_layer(folded, "block0/conv1")
    first = found.factorizer("block0/conv1", "output-pca", layer)
    assert found.factorizer("block0/conv1", "output-pca", layer) is first
    assert found.factorizer("block0/conv1", "input-side", layer) is not first
    assert found.factorizer("block0/conv1", "output-pca", layer) is first
    found.factorizer("block0/conv2", "output-pca", conv_layer(folded, "block0/conv2"))
    assert found.factorizer("block0/conv1", "output-pca", layer) is not first
    assert found.energy("block0/conv1", 1) is found.energy("block0/conv1", 1)


def test_statistics_that_are_read_back_give_the_same_factors(folded: ir.Model, tmp_path: Path) -> None:
    node, images = "block1/conv1", pictures(6)
    found = gathered(folded, images, {node: BOTH})
    layer = conv_layer(folded, node)
    np.savez(tmp_path / "input.npz", **found.input[node].to_arrays())
    reads = []

    def stored(name: str) -> InputStatistics:
        reads.append(name)
        with np.load(tmp_path / "input.npz") as arrays:
            return InputStatistics.from_arrays(layer, dict(arrays))

    again = Statistics(output=found.output, stored=stored)
    for kind in KINDS:
        expected = found.factorizer(node, kind, layer).factors(5)
        for part, own in zip(expected, again.factorizer(node, kind, layer).factors(5), strict=True):
            np.testing.assert_array_equal(own.weight, part.weight)
    # Once for all kinds that look at the input.
    assert reads == [node]
    # What is in memory is not read.
    reads.clear()
    Statistics(input=found.input, stored=stored).factorizer(node, "input-side", layer)
    assert not reads
    with pytest.raises(KeyError):
        Statistics().factorizer(node, "input-side", layer)


@pytest.mark.parametrize("kind", ["output-pca", "input-side"])
def test_factors_are_weighted_where_it_is_asked_for_and_there_is_a_metric(folded: ir.Model, kind: str) -> None:
    node = "block1/conv1"
    found = gathered(folded, pictures(6), {node: BOTH})
    layer = conv_layer(folded, node)
    plain = found.factorizer(node, kind, layer).factors(4, rounds=0)
    unmeasured = found.factorizer(node, kind, layer, weighted=True).factors(4, rounds=0)
    found = Statistics(output=found.output, input=found.input)
    fisher = found.fisher[node] = GradientStatistics(layer.out_channels)
    rng = np.random.default_rng(0)
    fisher.update(
        rng.standard_normal((50, layer.out_channels, 1, 1)) * np.linspace(2, 0, layer.out_channels)[:, None, None]
    )
    weighted = found.factorizer(node, kind, layer, weighted=True).factors(4, rounds=0)
    unasked = found.factorizer(node, kind, layer).factors(4, rounds=0)
    np.testing.assert_array_equal(unmeasured[0].weight, plain[0].weight)
    np.testing.assert_array_equal(unasked[0].weight, plain[0].weight)
    assert not np.allclose(weighted[0].weight, plain[0].weight, atol=1e-3)


def test_the_metric_holds_a_share_of_the_identity(folded: ir.Model) -> None:
    """Channels that the gradients did not reach are not given up."""
    node = "block1/conv1"
    found = gathered(folded, pictures(6), {node: BOTH})
    layer = conv_layer(folded, node)
    found.fisher[node] = GradientStatistics(layer.out_channels)
    found.fisher[node].update(np.eye(layer.out_channels)[:1, :, None, None])
    full: list[Factorizer] = [
        found.factorizer(node, kind, layer, weighted=True) for kind in ("output-pca", "input-side")
    ]
    for factorizer in full:
        assert factorizer.weighting is not None
        assert np.linalg.eigvalsh(factorizer.weighting)[0] >= 0.1 - 1e-9
        assert np.mean(np.diagonal(factorizer.weighting)) == pytest.approx(1)


def test_a_1x1_conv_s_input_is_not_looked_at() -> None:
    """Of it the input-side and spatial kinds are what output PCA is already."""
    wide, narrow = (ConvLayer(np.zeros((8, 8, size, size), np.float32)) for size in (3, 1))
    kinds = ("output-pca", "input-side", "spatial-vertical")
    assert needs_of(wide, kinds) == ["output", "input"]
    assert needs_of(narrow, kinds) == ["output"]
    assert needs_of(wide, ("input-side",)) == ["input"]
    assert needs_of(wide, ("weight-svd",)) == needs_of(narrow, ("spatial-vertical",)) == []


@given(
    st.lists(st.tuples(st.sampled_from([1, 3, 8, 16]), st.sampled_from([1, 3]), st.sampled_from([1, 2])), max_size=8),
    st.integers(0, 500_000),
)
@settings(deadline=None, max_examples=60)
def test_passes_hold_every_layer_once_and_fit_the_budget(shapes: list[tuple[int, int, int]], budget: int) -> None:
    layers = {
        f"n{index}": ConvLayer(np.zeros((4 * group, channels, kernel, kernel), np.float32), group=group)
        for index, (channels, kernel, group) in enumerate(shapes)
    }
    # One float64 second moment for every two columns of a group.
    sizes = {node: 8 * layer.group * int(np.prod(layer.weight.shape[1:])) ** 2 for node, layer in layers.items()}
    found = passes(layers, budget)
    assert [node for part in found for node in part] == list(layers)
    for part in found:
        assert sum(sizes[node] for node in part) <= budget or len(part) == 1
    for part, following in pairwise(found):
        assert sum(sizes[node] for node in part) + sizes[following[0]] > budget


def test_a_layer_s_statistics_do_not_depend_on_its_company(folded: ir.Model) -> None:
    """So that cutting the layers into passes, or asking for one alone, changes no digit."""
    images = pictures(6)
    together = gathered(folded, images, dict.fromkeys(NODES, BOTH))
    for node in NODES:
        alone = gathered(folded, images, {node: BOTH})
        np.testing.assert_array_equal(alone.output[node].covariance, together.output[node].covariance)
        np.testing.assert_array_equal(alone.input[node].covariance, together.input[node].covariance)


def test_thin_statistics_are_of_a_part_of_large_maps_and_as_good(tmp_path: Path) -> None:
    """Of images of 25 × 25 the first block has 625 positions each, of which 196 are asked for: every third."""
    path = save(network(Net(image=(25, 25))), tmp_path / "model.onnx")
    folded = load_folded(ModelSource(path=path, name="model"))[0]
    images = pictures(20, side=25)
    preprocess = msgspec.structs.replace(PREPROCESS, size=(25, 25))
    whole, thin = (
        gathered(folded, images, dict.fromkeys(NODES, BOTH), preprocess=preprocess, thin=thin) for thin in (False, True)
    )
    for node in NODES:
        assert thin.output[node].count == whole.output[node].count == whole.output[node].taken
        step = 3 if node == "stem" or node.startswith("block0") else 1
        assert thin.output[node].taken == pytest.approx(whole.output[node].taken / step, abs=20)
        for part, own in ((thin.output[node], whole.output[node]), (thin.input[node], whole.input[node])):
            assert np.linalg.norm(part.covariance - own.covariance) < 0.1 * np.linalg.norm(own.covariance)
    layer = conv_layer(folded, "block0/conv2")
    for kind in ("output-pca", "input-side", "spatial-vertical"):
        expected = whole.factorizer("block0/conv2", kind, layer).errors([4, 8])
        np.testing.assert_allclose(thin.factorizer("block0/conv2", kind, layer).errors([4, 8]), expected, rtol=0.1)
