"""One pass over the images: what is gathered is what the activations say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from ranksmith.data.dataset import open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import DataError, ModelError
from ranksmith.graph.query import conv_context, conv_layer
from ranksmith.lowrank.columns import columns
from ranksmith.progress import Silent
from ranksmith.workflow.decompose import load_folded
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Need, Statistics, gather
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


def test_a_factorizer_is_made_once(folded: ir.Model) -> None:
    found = gathered(folded, pictures(3), {"block0/conv1": ["output"]})
    layer = conv_layer(folded, "block0/conv1")
    assert found.factorizer("block0/conv1", "output-pca", layer) is found.factorizer(
        "block0/conv1", "output-pca", layer
    )
    assert found.energy("block0/conv1", 1) is found.energy("block0/conv1", 1)
