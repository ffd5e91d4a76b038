from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import DataError, ModelError, NodeNotFoundError
from ranksmith.graph import io
from ranksmith.graph.fold import fold
from ranksmith.measure.accuracy import kl, logits
from ranksmith.measure.ranges import METHODS
from ranksmith.progress import Silent
from ranksmith.results import QuantizeReport, from_json, to_json
from ranksmith.runtime.session import open_session
from ranksmith.workflow.images import ImageSet
from ranksmith.workflow.quantize import best_ranges, collect_ranges, histograms_of, quantize_model
from ranksmith.workflow.source import ModelSource
from tests.models import residual_classifier, save
from tests.unit.workflow.scene import CLASSES, HW, PREPROCESS, pictures


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return residual_classifier(hw=(HW, HW), classes=CLASSES)


@pytest.fixture(scope="module")
def images() -> ArrayDataset:
    return ArrayDataset("pictures", pictures(40), np.arange(40) % CLASSES)


@pytest.fixture
def source(net: onnx.ModelProto, tmp_path: Path) -> ModelSource:
    return ModelSource(path=save(net, tmp_path / "net.onnx"), name="net")


def set_of(images: ArrayDataset, *, batch: int = 4) -> ImageSet:
    return ImageSet(images, np.arange(len(images)), PREPROCESS, batch)


def run(source: ModelSource, images: ArrayDataset, **options: object) -> tuple[bytes, QuantizeReport]:
    settings = {"calibration": 20, "threads": 1, "seed": 0, "progress": Silent(), **options}
    return quantize_model(source, dataset=images, preprocess=PREPROCESS, **settings)  # type: ignore[arg-type]


def folded(source: ModelSource) -> bytes:
    model = io.load(source.path)
    fold(model)
    return io.to_bytes(model)


def test_the_closest_method_is_taken_and_answers_hardly_change(source: ModelSource, images: ArrayDataset) -> None:
    content, report = run(source, images)
    assert [entry.method for entry in report.methods] == sorted(
        METHODS, key=lambda method: next(entry.kl for entry in report.methods if entry.method == method)
    )
    assert report.method == report.methods[0].method
    assert report.methods[0].agreement >= 0.95
    batches = set_of(images).batches
    before, _ = logits(open_session(source.path, threads=1), batches())
    after, _ = logits(open_session(content, threads=1), batches())
    assert kl(before, after) < 0.02
    assert report.kept == []
    assert report.quantized["Conv"] == 6
    assert report.bytes_after == len(content) < report.bytes_before
    assert report.calibration == 20
    assert from_json(to_json(report), QuantizeReport) == report


def test_the_order_of_the_images_does_not_change_the_model(source: ModelSource, images: ArrayDataset) -> None:
    assert images.labels is not None
    backwards = ArrayDataset("pictures", images.images[::-1], images.labels[::-1])
    assert run(source, images)[0] == run(source, backwards)[0]


def test_ranges_do_not_depend_on_the_batch(source: ModelSource, images: ArrayDataset) -> None:
    content = folded(source)
    found = [collect_ranges(content, set_of(images, batch=batch).batches(), threads=1) for batch in (1, 16)]
    for method in METHODS:
        one, many = (histograms.ranges(method) for histograms in found)
        for value in one:
            assert one[value] == pytest.approx(many[value], rel=0.02, abs=1e-3)
    assert found[0].images == found[1].images == 40


def test_a_reference_is_what_methods_are_judged_against(source: ModelSource, images: ArrayDataset) -> None:
    content, few = folded(source), set_of(images)
    histograms = collect_ranges(content, few.batches(), threads=1)
    flat = np.zeros((len(images), CLASSES), np.float32)
    own = best_ranges(content, histograms, few, methods=["minmax"], threads=1)
    other = best_ranges(content, histograms, few, methods=["minmax"], reference=flat, threads=1)
    assert own.model == other.model
    assert own.table[0].kl < other.table[0].kl


def test_kept_nodes_are_listed_with_the_reason(source: ModelSource, images: ArrayDataset) -> None:
    _, report = run(source, images, keep=["stem"], methods=["minmax"])
    assert [(skip.node, skip.why) for skip in report.kept] == [
        ("stem", "Conv: asked for"),
        ("stem/relu_Relu", "Relu: what it reads or makes is float"),
    ]
    assert [entry.method for entry in report.methods] == ["minmax"]


def test_an_operator_without_an_int8_form_is_listed(images: ArrayDataset, tmp_path: Path) -> None:
    model = residual_classifier(hw=(HW, HW), classes=CLASSES)
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["p"], name="softmax"))
    model.graph.output[0].name = "p"
    source = ModelSource(path=save(model, tmp_path / "net.onnx"), name="net")
    _, report = run(source, images, methods=["minmax"])
    assert [(skip.node, skip.why) for skip in report.kept] == [
        ("softmax", "Softmax: onnxruntime does not compute it on integers")
    ]


def test_a_fixed_batch_of_one(images: ArrayDataset, tmp_path: Path) -> None:
    source = ModelSource(path=save(residual_classifier(hw=(HW, HW), batch=1), tmp_path / "net.onnx"), name="net")
    _, report = run(source, images, calibration=5, methods=["minmax"])
    assert report.calibration == 5


def test_one_image_and_black_images_are_enough(source: ModelSource) -> None:
    for pixels in (pictures(1), np.zeros((3, HW, HW, 3), np.uint8)):
        content, report = run(source, ArrayDataset("few", pixels, None))
        assert np.isfinite(report.methods[0].kl)
        assert len(content) == report.bytes_after


def test_few_images_are_warned_of(source: ModelSource, images: ArrayDataset) -> None:
    progress = Silent()
    run(source, images, calibration=100, progress=progress, methods=["minmax"])
    assert any("calibrating on 40 images" in warning for warning in progress.warnings)


def test_an_unknown_kept_node_is_told_before_the_images_are_read(source: ModelSource) -> None:
    nothing = ArrayDataset("nothing", np.zeros((0, HW, HW, 3), np.uint8), None)
    with pytest.raises(NodeNotFoundError, match="'stemm'") as caught:
        run(source, nothing, keep=["stemm"])
    assert "stem" in (caught.value.hint or "")


def test_only_what_is_asked_for_is_computed(source: ModelSource, images: ArrayDataset) -> None:
    content = folded(source)
    every = collect_ranges(content, set_of(images).batches(), threads=1)
    given, *made = every.values
    asked = [given, made[1]]
    model = io.from_bytes(content)
    few = histograms_of(model, asked, set_of(images).batches(), threads=1)
    assert [value.name for value in model.graph.outputs] == made[1:2]
    assert list(few.values) == asked
    for name, (low, high) in few.ranges("minmax").items():
        assert (low, high) == pytest.approx(every.ranges("minmax")[name], rel=1e-5)


def test_no_batch_is_told(source: ModelSource) -> None:
    with pytest.raises(DataError, match="nothing to calibrate on"):
        collect_ranges(folded(source), [], threads=1)


def test_a_model_that_overflows_is_told_with_the_value(images: ArrayDataset, tmp_path: Path) -> None:
    model = residual_classifier(hw=(HW, HW), classes=CLASSES)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc_bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(CLASSES, 3e38, np.float32), bias.name))
    model.graph.node.append(onnx.helper.make_node("Add", ["logits", "logits"], ["twice"], name="twice"))
    model.graph.output[0].name = "twice"
    source = ModelSource(path=save(model, tmp_path / "net.onnx"), name="net")
    with pytest.raises(ModelError, match="twice is NaN or infinite"):
        run(source, images)
