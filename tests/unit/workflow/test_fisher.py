"""Gradients over a dataset: what is gathered is what the loss says, however images are batched."""

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
from ranksmith.lowrank.fisher import GradientStatistics
from ranksmith.progress import Silent
from ranksmith.workflow import fisher
from ranksmith.workflow.decompose import load_folded
from ranksmith.workflow.fisher import gather_fisher
from ranksmith.workflow.source import ModelSource
from tests.models import run, save
from tests.unit.workflow.scene import CLASSES, PREPROCESS, Array, Net, inputs_of, network, pictures

NODES = ("stem", "block0/conv2", "block1/conv1", "block1/shortcut")


def loaded(folder: Path, model: onnx.ModelProto) -> ir.Model:
    return load_folded(ModelSource(path=save(model, folder / "model.onnx"), name="model"))[0]


@pytest.fixture
def folded(tmp_path: Path) -> ir.Model:
    return loaded(tmp_path, network())


def gathered(model: ir.Model, images: Array, **options: object) -> dict[str, GradientStatistics]:
    given: dict[str, object] = {"dataset": ArrayDataset("pictures", images), "indices": np.arange(len(images))}
    given |= {"preprocess": PREPROCESS, "threads": 1, "progress": Silent(), "batch": 4, "seed": 3}
    return gather_fisher(model, **{"nodes": NODES, **given, **options})  # type: ignore[arg-type]


def test_it_is_the_gradient_along_a_random_direction_of_the_centred_logits(folded: ir.Model) -> None:
    images = pictures(3)
    found = gathered(folded, images)["block1/conv1"]
    assert found.images == 3

    # The same for the last Conv by hand: a bias moves one channel at all positions.
    last = gathered(folded, images[:1], nodes=["block1/conv2"])["block1/conv2"]
    proto = ir.to_proto(folded)
    add = next(node for node in proto.graph.node if node.name == "block1/add_Add")
    for value in (add.output[0], "flat"):
        proto.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    answer = run(proto, {"image": inputs_of(images[:1])})
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    direction = np.random.default_rng(3).standard_normal(answer["scores"].shape[1], np.float32).astype(np.float64)
    pooled = weights["fc_weight"].T.astype(np.float64) @ (direction - direction.mean())
    mask = answer[add.output[0]][0] > 0
    g = pooled[:, None, None] * mask / mask[0].size
    np.testing.assert_allclose(last.fisher, np.einsum("chw,dhw->cd", g, g), rtol=1e-3, atol=1e-7 * np.square(g).sum())


def test_neither_the_batch_nor_the_number_of_passes_matters(folded: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(7)
    once = gathered(folded, images)
    assert list(once) == list(NODES)
    for budget in (1 << 20, 30_000, 1):
        monkeypatch.setattr(fisher, "_BUDGET_BYTES", budget)
        again = gathered(folded, images, batch=7)
        for node in NODES:
            assert again[node].images == 7
            np.testing.assert_allclose(
                again[node].weighting(), once[node].weighting(), rtol=1e-3, atol=1e-4, err_msg=node
            )


def test_another_seed_draws_other_directions(folded: ir.Model) -> None:
    images = pictures(7)
    one, other = gathered(folded, images), gathered(folded, images, seed=4)
    assert not np.allclose(one["stem"].weighting(), other["stem"].weighting(), rtol=1e-3)


def test_a_fixed_batch_is_filled_up_without_counting_what_fills_it(tmp_path: Path, folded: ir.Model) -> None:
    images = pictures(7)
    fixed = gathered(loaded(tmp_path, network(Net(batch=3))), images)
    for node, expected in gathered(folded, images).items():
        assert fixed[node].images == 7
        np.testing.assert_allclose(fixed[node].weighting(), expected.weighting(), rtol=1e-3, atol=1e-4)


def test_probabilities_serve_as_well_as_logits(tmp_path: Path, folded: ir.Model) -> None:
    model = network()
    model.graph.node.append(onnx.helper.make_node("Softmax", ["scores"], ["p"], "softmax", axis=1))
    model.graph.output[0].name = "p"
    images = pictures(5)
    found = gathered(loaded(tmp_path, model), images)
    for node, expected in gathered(folded, images).items():
        np.testing.assert_allclose(found[node].weighting(), expected.weighting(), rtol=1e-3, atol=1e-4)


def test_what_cannot_be_reached_is_absent(tmp_path: Path) -> None:
    model = network()
    relu = next(node for node in model.graph.node if node.output[0] == "block0/relu1")
    relu.op_type = "Softsign"
    found = gathered(loaded(tmp_path, model), pictures(2), nodes=["block0/conv1", "block0/conv2"])
    assert list(found) == ["block0/conv2"]
    assert gathered(loaded(tmp_path, model), pictures(2), nodes=["block0/conv1"]) == {}


def test_answers_of_unknown_shape_have_no_gradient(tmp_path: Path) -> None:
    model = network()
    make = onnx.helper.make_node
    for name, value in (("zero", np.float32(0)), ("classes", np.float32(CLASSES)), ("rows", np.array([-1]))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    # The number of classes is worked out from the image, as far as inference can see.
    model.graph.node.extend(
        [
            make("ReduceMax", ["image"], ["most"], "most", keepdims=0),
            make("Mul", ["most", "zero"], ["nothing"], "nothing"),
            make("Add", ["nothing", "classes"], ["sum"], "sum"),
            make("Cast", ["sum"], ["integer"], "integer", to=onnx.TensorProto.INT64),
            make("Reshape", ["integer", "rows"], ["listed"], "listed"),
            make("Concat", ["rows", "listed"], ["sizes"], "sizes", axis=0),
            make("Reshape", ["scores", "sizes"], ["reshaped"], "reshape"),
        ]
    )
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("reshaped", onnx.TensorProto.FLOAT, None))
    assert gathered(loaded(tmp_path, model), pictures(2)) == {}


def test_unreadable_images_are_skipped_and_told_once(
    folded: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fisher, "_BUDGET_BYTES", 1)
    (tmp_path / "data").mkdir()
    images = pictures(4)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "data" / f"{number}.png")
    (tmp_path / "data" / "2.png").write_bytes(b"not a png")
    listener = Silent()
    found = gathered(folded, images, dataset=open_dataset(tmp_path / "data"), progress=listener)
    assert {statistics.images for statistics in found.values()} == {3}
    assert len(listener.warnings) == 1


def test_not_one_readable_image_is_an_error_that_names_one(folded: ir.Model, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match="not one image of data") as caught:
        gathered(folded, pictures(1), dataset=open_dataset(tmp_path / "data"))
    assert "a.png" in str(caught.value.hint)


def test_gradients_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = network()
    for tensor in model.graph.initializer:
        if tensor.name == "fc_weight":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, np.float32), tensor.name))
    with pytest.raises(ModelError, match="not finite"):
        gathered(loaded(tmp_path, model), pictures(2))
