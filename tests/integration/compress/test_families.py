"""Float, low rank, int8 and both together: what is chosen from, what is told of it, and that it can be built again.

The machine is `Arithmetic`, so the objective is latency and every run finds out the same.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ranksmith.bundle import golden
from ranksmith.bundle.verify import verify_files
from ranksmith.cli.app import run as command
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import ModelError, UsageError
from ranksmith.report.explain import explain
from ranksmith.results import Manifest, RankPlan, from_json
from tests.integration.compress.desk import CALIBRATION, LABELS, Desk, Listener
from tests.models import GraphBuilder, run
from tests.unit.workflow.scene import (
    HW,
    Arithmetic,
    Net,
    answers,
    inputs_of,
    labelled,
    network,
    pictures,
    trained,
)

OPTIONS: dict[str, Any] = {"objective": "latency", "max_drop_pp": 8.0, "seed": 3}


@dataclass(frozen=True)
class Done:
    """A bundle whose model is low rank and int8, and what it was made from."""

    desk: Desk
    manifest: Manifest
    data: ArrayDataset

    @property
    def bundle(self) -> Path:
        return self.desk.bundle

    def plan(self, family: str, *, chosen: bool = False) -> Path:
        """The file of a plan of a family."""
        points = [point for point in self.manifest.frontier if point.family == family and point.chosen >= chosen]
        return self.bundle / "frontier" / str(points[-1].plan)

    def decompose(self, plan: Path, output: Path) -> bytes:
        """What the command line makes of a plan."""
        folder = output.parent
        save_inputs(folder, self.data)
        arguments = ["decompose", str(self.desk.source.path), "--plan", str(plan), "--data", str(folder / "images.npz")]
        arguments += ["--preprocess", str(folder / "small.toml"), "-o", str(output), "--quiet"]
        assert command(arguments) == 0
        return output.read_bytes()


def save_inputs(folder: Path, data: ArrayDataset) -> None:
    assert data.labels is not None
    np.savez(folder / "images.npz", images=data.images, labels=data.labels)
    (folder / "small.toml").write_text(f"size = {HW}\nmean = [127.5, 127.5, 127.5]\nstd = [64, 64, 64]\n")


def reasons(manifest: Manifest) -> set[str]:
    return {layer.reason for layer in manifest.layers}


@pytest.fixture(scope="module")
def sturdy() -> onnx.ModelProto:
    """A classifier that can be quantized."""
    return trained(network(Net(widths=(32, 64))), whiten=False)


@pytest.fixture(scope="module")
def sturdy_data(sturdy: onnx.ModelProto) -> ArrayDataset:
    return labelled(sturdy, 200)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, sturdy: onnx.ModelProto, sturdy_data: ArrayDataset) -> Done:
    with pytest.MonkeyPatch.context() as monkeypatch:
        Arithmetic().use(monkeypatch)
        desk = Desk(tmp_path_factory.mktemp("done"), sturdy, sturdy_data, labels=LABELS)
        return Done(desk, desk.compress(**OPTIONS), sturdy_data)


@pytest.fixture
def arithmetic(monkeypatch: pytest.MonkeyPatch, bare: None) -> Arithmetic:
    machine = Arithmetic()
    machine.use(monkeypatch)
    return machine


@pytest.fixture
def again(done: Done, arithmetic: Arithmetic) -> Desk:
    """Another run beside the bundle, which takes what the first one cached."""
    done.desk.listener = Listener()
    return done.desk


class TestFrontier:
    """Everything that a user would think of is tried, judged and timed."""

    def test_every_family_is_on_it(self, done: Done) -> None:
        found = Counter(point.family for point in done.manifest.frontier)
        assert set(found) == {"original", "folded", "int8", "low-rank", "low-rank-int8", "uniform-svd"}
        assert found["original"] == found["folded"] == found["int8"] == found["uniform-svd"] == 1
        assert len({point.name for point in done.manifest.frontier}) == len(done.manifest.frontier)

    def test_low_rank_and_int8_together_win_where_both_pay(self, done: Done) -> None:
        manifest = done.manifest
        assert manifest.verdict == "faster"
        assert (manifest.asked_precision, manifest.precision) == ("auto", "int8")
        [chosen] = [point for point in manifest.frontier if point.chosen]
        assert chosen.family == "low-rank-int8"
        [int8] = [point for point in manifest.frontier if point.family == "int8"]
        assert chosen.speedup > int8.speedup > 1.0
        assert manifest.accuracy.drop_pp <= manifest.max_drop_pp

    def test_what_was_predicted_stands_beside_what_was_measured(self, done: Done) -> None:
        audit = done.manifest.prediction
        assert audit is not None
        assert audit.plans == len(audit.predicted_ms) == len(audit.measured_ms) >= 2
        errors = np.abs(np.divide(audit.predicted_ms, audit.measured_ms) - 1)
        assert audit.median_error == pytest.approx(float(np.median(errors)))
        # On this machine a model's time is the sum of its layers'; what strays is the noise of the measurements.
        assert audit.median_error < 0.1
        for point in done.manifest.frontier:
            assert (point.measured_ms is None) == (point.plan is None)
            assert (point.predicted_ms is None) == (point.plan is None or point.family == "uniform-svd")

    def test_how_probable_it_is_that_the_drop_is_within_budget(self, done: Done) -> None:
        ours = {"int8", "low-rank", "low-rank-int8"}
        for point in done.manifest.frontier:
            assert (point.probability is not None) == (point.family in ours)
            assert point.probability is None or 0.0 <= point.probability <= 1.0
            assert not point.chosen or (point.probability or 0.0) >= 0.6
        within = done.manifest.accuracy.probability_within
        assert within is not None
        assert 0.0 < within <= 1.0

    def test_the_table_of_ranges_and_other_providers_are_told(self, done: Done) -> None:
        assert any("minmax" in note and "KL" in note for note in done.manifest.notes)
        for other in done.manifest.providers:
            assert other.provider != "cpu"
            assert other.ratio > 0

    def test_the_report_tells_of_it(self, done: Done) -> None:
        page = (done.bundle / "report.html").read_text()
        assert all(layer.node in page for layer in done.manifest.layers)
        assert "int8" in page


class TestModel:
    """The model of the bundle, and those of the other plans."""

    def test_it_is_int8_and_gives_the_golden_answers(self, done: Done) -> None:
        manifest = verify_files(done.bundle)
        types = Counter(node.op_type for node in onnx.load(done.bundle / "model.onnx").graph.node)
        assert types["QuantizeLinear"]
        assert types["DequantizeLinear"]
        assert not types["BatchNormalization"]
        inputs, outputs = golden.load_golden(done.bundle / "golden.npz")
        # Optimized, as it runs: what onnxruntime does without its integer kernels rounds otherwise.
        rows = [
            run(done.bundle / "model.onnx", {"image": image[None]}, optimize=True)["scores"]
            for image in inputs["image"]
        ]
        np.testing.assert_allclose(np.concatenate(rows), outputs["scores"], atol=1e-4 * np.abs(outputs["scores"]).max())
        # Half of the weights are gone, and those that are left take a quarter of the room.
        assert manifest.cost_after.bytes < 0.5 * manifest.cost_before.bytes

    def test_its_plan_rebuilds_it_bit_for_bit(self, done: Done, tmp_path: Path) -> None:
        plan = done.plan("low-rank-int8", chosen=True)
        assert done.decompose(plan, tmp_path / "again.onnx") == (done.bundle / "model.onnx").read_bytes()

    def test_int8_alone_can_be_built_from_its_plan(self, done: Done, tmp_path: Path) -> None:
        path = done.plan("int8")
        plan = from_json(path.read_bytes(), RankPlan)
        assert (plan.precision, plan.calibration, plan.seed) == ("int8", CALIBRATION, 3)
        assert all(entry.kind is None for entry in plan.layers)
        done.decompose(path, tmp_path / "int8.onnx")
        x = inputs_of(done.data.images[:40])
        agreement = np.mean(answers(tmp_path / "int8.onnx", x).argmax(1) == answers(done.desk.model, x).argmax(1))
        assert agreement > 0.8

    def test_an_int8_plan_without_images_is_refused(
        self, done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["decompose", str(done.desk.source.path), "--plan", str(done.plan("int8"))]
        assert command([*arguments, "-o", str(tmp_path / "out.onnx")]) == 2
        printed = capsys.readouterr()
        assert "needs calibration images" in printed.err
        assert not (tmp_path / "out.onnx").exists()

    def test_a_plan_of_another_model_is_warned_about(
        self, done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(done.desk.model)
        copy.producer_name = "someone else"
        (tmp_path / "other.onnx").write_bytes(copy.SerializeToString())
        save_inputs(tmp_path, done.data)
        arguments = ["decompose", str(tmp_path / "other.onnx"), "--plan", str(done.plan("low-rank")), "--data"]
        arguments += [str(tmp_path / "images.npz"), "--preprocess", str(tmp_path / "small.toml")]
        assert command([*arguments, "-o", str(tmp_path / "out.onnx")]) == 0
        assert "made for another model" in capsys.readouterr().err

    def test_the_same_seed_gives_the_same_bytes(self, done: Done, arithmetic: Arithmetic, tmp_path: Path) -> None:
        fresh = Desk(tmp_path, done.desk.model, done.data, labels=LABELS)
        fresh.compress(**OPTIONS)
        for name in ("model.onnx", "golden.npz", *(f"frontier/{file.name}" for file in done.bundle.glob("frontier/*"))):
            assert (fresh.bundle / name).read_bytes() == (done.bundle / name).read_bytes(), name


class TestStories:
    """Every Conv's record says what was considered and why it was decided so."""

    def test_each_has_its_options_one_of_them_chosen(self, done: Done) -> None:
        for layer in done.manifest.layers:
            verdicts = Counter(option.verdict for option in layer.options)
            assert verdicts["chosen"] == 1, layer.node
            assert set(verdicts) <= {"chosen", "pays", "slower", "dominated"}
            [chosen] = [option for option in layer.options if option.verdict == "chosen"]
            assert (chosen.kind, chosen.rank, chosen.precision) == (layer.kind, layer.rank, layer.precision)
            assert layer.detail
            assert (layer.reason == "decomposed") == (layer.kind is not None)
            assert layer.reason != "quantized" or layer.precision == "int8"
            assert layer.damage is not None

    def test_candidates_have_options_in_both_precisions_with_times_and_damages(self, done: Done) -> None:
        layers = {layer.node: layer for layer in done.manifest.layers}
        options = layers["block1/conv2"].options
        assert {option.precision for option in options} == {"fp32", "int8"}
        assert len({option.kind for option in options}) > 3
        assert all(option.predicted_ms is not None and option.damage is not None for option in options)
        assert (layers["block1/conv2"].sensitivity or 0.0) > 0.0
        # The first Conv is not decomposed, but whether to quantize it is considered.
        assert {(option.kind, option.precision) for option in layers["stem"].options} == {
            (None, "fp32"), (None, "int8"),
        }  # fmt: skip
        assert layers["stem"].sensitivity is None

    def test_a_story_can_be_told(self, done: Done) -> None:
        for layer in done.manifest.layers:
            told = explain(done.manifest, layer.node)
            assert layer.node in told
            assert layer.detail.split(";")[0] in told
            assert len(told.splitlines()) > 5


class Uneven(Arithmetic):
    """Another machine: every second Conv takes a little longer than it should."""

    def conv_ms(self, model: onnx.ModelProto) -> dict[str, float]:
        return {
            name: ms * (1.0 + 0.01 * (index % 2)) for index, (name, ms) in enumerate(super().conv_ms(model).items())
        }


def test_another_thread_count_takes_the_plans_that_were_judged(
    done: Done, again: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    Uneven().use(monkeypatch)
    other = again.folder / "threads"
    manifest = again.compress(**OPTIONS, threads=2, output=other)
    assert manifest.verdict == "faster"
    assert not again.listener.gathered

    def plans(found: Manifest, folder: Path) -> set[str]:
        ours = [point for point in found.frontier if point.family in ("low-rank", "low-rank-int8")]
        return {(folder / "frontier" / str(point.plan)).read_text() for point in ours}

    assert plans(manifest, other) <= plans(done.manifest, done.bundle)
    shutil.rmtree(other)


class TestPrecision:
    """`--precision` decides which families there are."""

    def test_fp32_keeps_to_floating_point(self, done: Done, again: Desk, tmp_path: Path) -> None:
        manifest = again.compress(**OPTIONS, precision="fp32", output=again.folder / "fp32")
        assert (manifest.asked_precision, manifest.precision, manifest.verdict) == ("fp32", "fp32", "faster")
        assert {point.family for point in manifest.frontier} == {"original", "folded", "low-rank", "uniform-svd"}
        assert {layer.precision for layer in manifest.layers} == {"fp32"}
        assert {option.precision for layer in manifest.layers for option in layer.options} == {"fp32"}
        assert not again.listener.gathered
        [chosen] = [point for point in manifest.frontier if point.chosen]
        content = (again.folder / "fp32" / "model.onnx").read_bytes()
        plan = again.folder / "fp32" / "frontier" / str(chosen.plan)
        assert Done(again, manifest, done.data).decompose(plan, tmp_path / "again.onnx") == content
        shutil.rmtree(again.folder / "fp32")

    def test_int8_is_taken_even_where_floating_point_gains_more(self, done: Done, again: Desk) -> None:
        # The kinds decide which plans there are; here none pays, so int8 alone is what can be taken.
        manifest = again.compress(
            **OPTIONS, precision="int8", kinds=("weight-svd",), sensitivity=0, output=again.folder / "int8"
        )
        assert (manifest.asked_precision, manifest.precision, manifest.verdict) == ("int8", "int8", "faster")
        assert {layer.kind for layer in manifest.layers} <= {None, "weight-svd"}
        assert all(layer.sensitivity is None for layer in manifest.layers)
        assert {point.family for point in manifest.frontier if point.chosen} <= {"int8", "low-rank-int8"}
        shutil.rmtree(again.folder / "int8")

    def test_what_cannot_be_quantized_is_refused_or_left_out(self, tmp_path: Path, arithmetic: Arithmetic) -> None:
        build = GraphBuilder()
        x = build.node(
            "Flatten", [build.node("GlobalAveragePool", [build.input("image", ["N", 3, HW, HW])], "pool")], "scores"
        )
        build.output(x, ["N", 3])
        model = build.model()
        images = pictures(60)
        desk = Desk(tmp_path, model, ArrayDataset("pictures", images))
        with pytest.raises(ModelError, match="nothing to quantize"):
            desk.compress(objective="latency", precision="int8")
        assert desk.left() == set()
        manifest = desk.compress(objective="latency", precision="auto")
        assert manifest.verdict == "kept-original"
        assert any("int8 was left out: nothing to quantize" in note for note in manifest.notes)
        assert any("int8 was left out" in note for note in desk.listener.notes)

    def test_a_model_whose_answers_int8_would_change_keeps_floating_point(
        self, tmp_path: Path, small: onnx.ModelProto, small_data: ArrayDataset, arithmetic: Arithmetic
    ) -> None:
        desk = Desk(tmp_path, small, small_data)
        manifest = desk.compress(objective="latency", max_drop_pp=2.0)
        assert manifest.precision == "fp32"
        [int8] = [point for point in manifest.frontier if point.family == "int8"]
        assert (int8.probability or 0.0) < 0.8
        assert reasons(manifest) <= {
            "decomposed",
            "kept-stem",
            "kept-small",
            "kept-sensitive",
            "kept-slower",
            "kept-original",
        }


class TestKinds:
    """`--kinds` limits what a Conv may become."""

    @pytest.mark.parametrize("kinds", [("spatial-vertical",), ("weight-svd",), ("tucker2", "input-side")], ids=str)
    def test_only_these_are_considered(self, again: Desk, kinds: tuple[str, ...]) -> None:
        output = again.folder / "kinds"
        manifest = again.compress(**OPTIONS, precision="fp32", kinds=kinds, output=output)
        considered = {
            option.kind
            for layer in manifest.layers
            for option in layer.options
            if not layer.node.endswith("shortcut") and option.kind
        }
        assert considered == set(kinds)
        # Nothing is gathered for single layers on the way.
        assert "Input statistics of 1 layers" not in again.listener.stages
        shutil.rmtree(output)


def test_interrupted_in_int8_it_resumes(tmp_path: Path, sturdy: onnx.ModelProto, arithmetic: Arithmetic) -> None:
    """Halfway through every sort of stage; what was finished is not done again, and the file is the same."""
    desk = Desk(tmp_path, sturdy, labelled(sturdy, 100))
    options = {**OPTIONS, "points": 3, "sensitivity": 4, "kinds": ("output-pca", "spatial-vertical")}
    desk.compress(**options, output=tmp_path / "whole")
    expected = (tmp_path / "whole" / "model.onnx").read_bytes()
    # The images go through the model once for outputs and inputs.
    (together,) = [title for title in desk.listener.stages if "statistics" in title or title.startswith("Spectra")]
    assert together.startswith("Spectra and input statistics of")
    moments = desk.listener.moments
    assert len(moments) >= 10
    shutil.rmtree(tmp_path / "cache")
    done: set[str] = set()
    # One run after another over the same cache, each of them cut off one stage later.
    for number in moments:
        desk.listener = Listener(interrupt_at=number, halfway=True)
        try:
            desk.compress(**options)
        except KeyboardInterrupt:
            assert desk.left() == {"whole"}
        else:
            shutil.rmtree(desk.bundle)
        gathering = {
            title for title in desk.listener.stages if title.startswith(("Spectra", "Input statistics", "Gradients"))
        }
        assert not gathering & done
        done |= {title for title in gathering if title != desk.listener.stages[-1]}
    desk.listener = Listener()
    desk.compress(**options)
    assert (desk.bundle / "model.onnx").read_bytes() == expected


def test_int8_cannot_save_multiply_adds(desk: Desk) -> None:
    with pytest.raises(UsageError, match="do not depend on the precision"):
        desk.compress(precision="int8", objective="macs")
    assert not desk.bundle.exists()
