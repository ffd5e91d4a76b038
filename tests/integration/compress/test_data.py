"""Which images do what, and which models are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from ranksmith.bundle import golden
from ranksmith.bundle.verify import verify_files
from ranksmith.data import split as splits
from ranksmith.data.dataset import open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import DataError, ModelError
from tests.integration.compress.desk import Counted, Desk, Listener
from tests.models import GraphBuilder, run
from tests.unit.workflow.scene import (
    CLASSES,
    HW,
    Machine,
    Net,
    answers,
    inputs_of,
    labelled,
    network,
    pictures,
    replace,
    trained,
)


class TestData:
    """Which images do what."""

    @pytest.fixture(autouse=True)
    def _steady(self, monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
        Machine().use(monkeypatch)

    def test_without_labels_agreement_stands_in_for_accuracy(self, desk: Desk, small_data: ArrayDataset) -> None:
        desk.data = ArrayDataset("pictures", small_data.images)
        manifest = desk.compress(max_drop_pp=10.0)
        accuracy = manifest.accuracy
        assert not accuracy.labelled
        assert (accuracy.baseline.top1, accuracy.result.top1) == (None, None)
        assert accuracy.drop_pp == pytest.approx(100 * (1 - accuracy.agreement))
        assert manifest.verdict == "faster"

    def test_calibration_images_of_their_own_leave_all_others_to_judge_on(self, desk: Desk) -> None:
        desk.calibration = ArrayDataset("others", pictures(30, seed=99))
        manifest = desk.compress(calibration=25)
        assert manifest.data.calibration == 25
        assert manifest.data.selection + manifest.data.holdout == 160
        parts = splits.split(desk.calibration, calibration=25, seed=0, calibration_only=True)
        assert manifest.data.calibration_sha256 == parts.calibration_sha256
        inputs, _ = golden.load_golden(desk.bundle / "golden.npz")
        known = {image.tobytes() for image in inputs_of(pictures(30, seed=99))}
        assert all(image.tobytes() in known for image in inputs["image"])

    def test_a_few_of_many_are_a_fair_sample_however_the_files_are_sorted(
        self, desk: Desk, small_data: ArrayDataset
    ) -> None:
        assert small_data.labels is not None
        by_class = np.argsort(small_data.labels, kind="stable")
        counted = Counted("sorted", small_data.images[by_class], small_data.labels[by_class])
        desk.data = counted
        manifest = desk.compress(calibration=16, selection=32, holdout=32)
        # A choice that does not hold moves held-out images to those chosen on, and what is chosen depends on times.
        assert manifest.data.selection + manifest.data.holdout == 64
        seen = set(counted.seen)
        assert len(seen) == 80
        # 80 of the first half would be the chance of a biased draw, not of a fair one.
        assert 30 <= sum(index < 80 for index in seen) <= 50

    def test_unreadable_images_are_skipped_counted_and_warned_about(self, desk: Desk, small_data: ArrayDataset) -> None:
        folder = desk.folder / "data"
        folder.mkdir()
        for number, image in enumerate(small_data.images[:60]):
            Image.fromarray(image).save(folder / f"{number:02d}.png")
        bad = {f"{number:02d}.png" for number in range(0, 60, 6)}
        for number, name in enumerate(sorted(bad)):
            (folder / name).write_bytes(b"not a png %d" % number)
        desk.data = open_dataset(folder)
        for _ in ("fresh", "from the cache"):
            desk.listener = Listener()
            manifest = desk.compress(max_drop_pp=30.0, calibration=20, overwrite=True)
            told = {name for name in bad if sum(name in line for line in desk.listener.warnings) == 1}
            assert told == bad
            assert manifest.data.skipped == len(bad)
            assert all(any(name in line for line in manifest.warnings) for name in bad)
            assert manifest.accuracy.images + len(bad) <= 60

    def test_labels_that_the_model_does_not_have_are_refused(self, desk: Desk, small_data: ArrayDataset) -> None:
        desk.data = ArrayDataset("pictures", small_data.images, np.arange(160))
        with pytest.raises(DataError, match=r"labels up to 159 .*10"):
            desk.compress()
        desk.data = ArrayDataset("pictures", small_data.images, small_data.labels, ["cat", "dog"])
        with pytest.raises(DataError, match="2 labels"):
            desk.compress()
        assert desk.left() == set()

    def test_too_few_images_are_refused(self, desk: Desk, small_data: ArrayDataset) -> None:
        desk.data = ArrayDataset("two", small_data.images[:2])
        with pytest.raises(DataError, match="too few"):
            desk.compress()
        assert desk.left() == set()

    def test_a_handful_is_enough_for_a_bundle_with_a_warning(self, desk: Desk, small_data: ArrayDataset) -> None:
        assert small_data.labels is not None
        desk.data = ArrayDataset("few", small_data.images[:7], small_data.labels[:7])
        manifest = desk.compress()
        assert (manifest.data.calibration, manifest.data.selection, manifest.data.holdout) == (3, 1, 3)
        assert any("calibrating on 3 images" in warning for warning in manifest.warnings)
        assert any("judged on 3 images only" in warning for warning in manifest.warnings)
        assert desk.listener.warnings == manifest.warnings

    @pytest.mark.parametrize("count", [1, 8, 32])
    def test_few_calibration_images_are_warned_about_and_the_promise_is_kept(
        self, desk: Desk, small_data: ArrayDataset, count: int
    ) -> None:
        desk.calibration = ArrayDataset("others", pictures(40, seed=99))
        manifest = desk.compress(calibration=count)
        assert manifest.data.calibration == count
        warned = [warning for warning in manifest.warnings if "too few positions" in warning]
        # One image shows the last block at 36 positions, and its Convs read 144 and 288 values at each.
        assert len(warned) == (count == 1)
        assert warned == [warning for warning in desk.listener.warnings if "too few positions" in warning]
        assert manifest.accuracy.drop_pp <= manifest.max_drop_pp
        errors = [option.error for layer in manifest.layers for option in layer.options if option.kind]
        assert errors
        assert np.isfinite(errors).all()
        assert manifest.verdict == "faster" or count == 1

    def test_more_calibration_images_than_there_are_is_warned_about(self, desk: Desk) -> None:
        manifest = desk.compress(calibration=1000)
        assert manifest.data.calibration == 80
        assert any("calibrating on 80 images" in warning for warning in manifest.warnings)
        assert desk.listener.warnings == manifest.warnings

    def test_images_that_are_all_black_are_one_image(self, desk: Desk) -> None:
        desk.data = ArrayDataset("black", np.zeros((50, HW, HW, 3), np.uint8))
        with pytest.raises(DataError, match="black: 1 different images are too few"):
            desk.compress()
        assert desk.left() == set()

    def test_black_calibration_images_promise_nothing(self, desk: Desk) -> None:
        """What was calibrated on says nothing about the layers; what is judged on still does."""
        desk.calibration = ArrayDataset("black", np.zeros((5, HW, HW, 3), np.uint8))
        manifest = desk.compress(calibration=5)
        assert manifest.data.calibration == 1
        assert any("duplicate" in warning or "calibrating on 1 images" in warning for warning in manifest.warnings)
        assert manifest.accuracy.drop_pp <= manifest.max_drop_pp
        assert all(np.isfinite(option.error) for layer in manifest.layers for option in layer.options)

    def test_one_image_repeated_is_one_image(self, desk: Desk, small_data: ArrayDataset) -> None:
        assert small_data.labels is not None
        repeated = np.repeat(small_data.images[:1], 60, axis=0)
        desk.data = ArrayDataset("repeated", repeated, np.repeat(small_data.labels[:1], 60))
        with pytest.raises(DataError, match="repeated: 1 different images are too few") as caught:
            desk.compress()
        assert "at least 3" in str(caught.value.hint)
        # Among others it counts once.
        images = np.concatenate([repeated, small_data.images[1:]])
        desk.data = ArrayDataset(
            "most", images, np.concatenate([small_data.labels[:1].repeat(60), small_data.labels[1:]])
        )
        manifest = desk.compress()
        assert manifest.data.calibration + manifest.data.selection + manifest.data.holdout == 160
        assert any("59 duplicate" in warning for warning in manifest.warnings)

    def test_classes_in_a_map_of_one_by_one(self, tmp_path: Path) -> None:
        build = GraphBuilder()
        x = build.input("image", ["N", 3, HW, HW])
        x = build.node("Relu", [build.conv(x, "stem", (3, 16), pads=[1] * 4)], "relu")
        x = build.conv(x, "conv", (16, CLASSES), pads=[1] * 4)
        build.output(build.node("GlobalAveragePool", [x], "scores"), ["N", CLASSES, 1, 1])
        model = build.model()
        images = pictures(60)
        labels = run(model, {"image": inputs_of(images)})["scores"][:, :, 0, 0].argmax(1)
        manifest = Desk(tmp_path, model, ArrayDataset("pictures", images, labels)).compress()
        assert manifest.accuracy.baseline.top1 == 1.0


class TestModels:
    """Models that are handled, or refused in one clear line."""

    def test_a_batch_that_is_fixed_to_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
        Machine().use(monkeypatch)
        model = trained(network(Net(batch=1)))
        desk = Desk(tmp_path, model, labelled(model, 100))
        manifest = desk.compress()
        assert manifest.verdict == "faster"
        assert [pair.batch for pair in manifest.latency] == [1]
        assert manifest.batch_cost.batches == [1]
        assert any("batch 1" in note for note in desk.listener.notes)
        inputs, outputs = golden.load_golden(desk.bundle / "golden.npz")
        np.testing.assert_allclose(
            answers(desk.bundle / "model.onnx", inputs["image"]), outputs["scores"], rtol=1e-4, atol=1e-4
        )

    def test_weights_in_a_file_beside_the_model(
        self, desk: Desk, small: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, bare: None
    ) -> None:
        Machine().use(monkeypatch)
        path, weights = desk.folder / "model.onnx", desk.folder / "cache" / "weights.bin"
        copy = onnx.ModelProto()
        copy.CopyFrom(small)
        weights.parent.mkdir()
        onnx.save_model(copy, path, save_as_external_data=True, location="cache/weights.bin", size_threshold=0)
        manifest = desk.compress()
        assert manifest.verdict == "faster"
        # The file of the graph alone says little about what the original takes.
        assert manifest.source.bytes == path.stat().st_size + weights.stat().st_size
        assert manifest.cost_before.bytes == manifest.source.bytes
        verify_files(desk.bundle)

    def test_weights_that_are_listed_as_inputs(
        self, desk: Desk, small: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, bare: None
    ) -> None:
        Machine().use(monkeypatch)
        desk.model = onnx.ModelProto()
        desk.model.CopyFrom(small)
        for tensor in small.graph.initializer:
            desk.model.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
        manifest = desk.compress()
        assert manifest.verdict == "faster"
        assert [value.name for value in manifest.inputs] == ["image"]
        assert [value.name for value in onnx.load(desk.bundle / "model.onnx").graph.input] == ["image"]

    def test_inputs_in_half_precision_are_refused_in_one_line(self, desk: Desk) -> None:
        build = GraphBuilder(dtype=np.float16)
        x = build.node("Relu", [build.conv(build.input("image", ["N", 3, HW, HW]), "conv", (3, 16))], "relu")
        x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "pool")], "scores")
        build.output(x, ["N", 16])
        desk.model = build.model()
        with pytest.raises(ModelError, match=r"model\.onnx.*(float16|half)"):
            desk.compress()
        assert desk.left() == set()

    def test_another_fixed_batch_is_refused(self, desk: Desk) -> None:
        desk.model = network(Net(batch=4))
        with pytest.raises(ModelError, match=r"model\.onnx: input image has a fixed batch of 4") as caught:
            desk.compress()
        assert "symbolic batch" in str(caught.value.hint)
        assert desk.left() == set()

    def test_two_inputs_are_refused(self, desk: Desk) -> None:
        build = GraphBuilder()
        both = [build.conv(build.input(name, ["N", 3, HW, HW]), f"{name}_conv", (3, 4)) for name in ("a", "b")]
        x = build.node("GlobalAveragePool", [build.node("Add", both, "sum")], "pool")
        build.output(build.node("Flatten", [x], "scores"), ["N", 4])
        desk.model = build.model()
        with pytest.raises(ModelError, match=r"model\.onnx has 2 inputs"):
            desk.compress()
        assert desk.left() == set()

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("weight", ["block0/conv1_weight", "fc_bias"])
    def test_weights_that_are_not_finite_are_refused(
        self, desk: Desk, small: onnx.ModelProto, value: float, weight: str
    ) -> None:
        desk.model = onnx.ModelProto()
        desk.model.CopyFrom(small)
        shape = next(tensor.dims for tensor in small.graph.initializer if tensor.name == weight)
        replace(desk.model, {weight: np.full(tuple(shape), value)})
        with pytest.raises(ModelError, match=r"model\.onnx gives NaN or infinity"):
            desk.compress()
        assert desk.left() == set()

    def test_images_of_another_size_than_the_model_takes_are_refused(self, desk: Desk) -> None:
        desk.model = network(Net(image=(16, 16)))
        with pytest.raises(ModelError, match=r"model\.onnx"):
            desk.compress()
        assert desk.left() == set()
