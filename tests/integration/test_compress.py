"""`compress` from a model and images to a bundle, and everything that can come in between.

What a machine's clock says is either measured for real, and then only its consistency is asserted, or told by
`Machine`; everything else is the real thing.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from ranksmith.bundle import golden
from ranksmith.bundle.verify import verify_files
from ranksmith.cli.app import run as command
from ranksmith.data import split as splits
from ranksmith.data.dataset import Dataset, open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import DataError, GateError, ModelError, OutputError
from ranksmith.files import sha256_of
from ranksmith.graph import io
from ranksmith.graph.query import cost
from ranksmith.measure.latency import paired_latency
from ranksmith.progress import Advance, Silent
from ranksmith.results import Manifest, RankPlan, from_json, to_json
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.compress.job import CompressOptions
from ranksmith.workflow.compress.run import compress
from ranksmith.workflow.decompose import decompose
from ranksmith.workflow.inputs import Inputs
from ranksmith.workflow.source import ModelSource
from tests.models import GraphBuilder, run, save
from tests.unit.workflow.scene import (
    CLASSES,
    HW,
    PREPROCESS,
    Array,
    Machine,
    Net,
    answers,
    flat_network,
    inputs_of,
    labelled,
    network,
    pictures,
    replace,
    replace_in_compress,
    trained,
)

LABELS = [f"class {number}" for number in range(CLASSES)]
CALIBRATION = 40


class Listener(Silent):
    """Remembers everything that it is told; raises where it is asked to."""

    def __init__(self, *, interrupt_at: int | None = None, halfway: bool = False) -> None:
        super().__init__()
        self.stages: list[str] = []
        self.notes: list[str] = []
        self._interrupt_at = interrupt_at
        self._halfway = halfway

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        self.stages.append(title)
        due = len(self.stages) - 1 == self._interrupt_at
        if due and not self._halfway:
            raise KeyboardInterrupt

        def advance(steps: int) -> None:
            if due:
                raise KeyboardInterrupt

        yield advance

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def gathered(self) -> bool:
        return "Spectra" in self.stages


@dataclass
class Desk:
    """A directory with a model, and images labelled by its answers."""

    folder: Path
    model: onnx.ModelProto
    data: Dataset
    calibration: Dataset | None = None
    labels: list[str] | None = None
    listener: Listener = field(default_factory=Listener)

    @property
    def source(self) -> ModelSource:
        path = self.folder / "model.onnx"
        return ModelSource(path=path if path.exists() else save(self.model, path), name="model")

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def compress(self, **options: Any) -> Manifest:
        given: dict[str, Any] = {"output": self.bundle, "objective": "macs", "max_drop_pp": 5.0}
        given |= {"calibration": CALIBRATION, "points": 6}
        return compress(
            self.source,
            Inputs(self.data, self.calibration, PREPROCESS, self.labels),
            CompressOptions(**(given | options)),
            progress=self.listener,
            cache=Cache(self.folder / "cache"),
        )

    def left(self) -> set[str]:
        """What lies beside the model, cache and data."""
        return {path.name for path in self.folder.iterdir()} - {"model.onnx", "cache", "data"}


@pytest.fixture(scope="module")
def small() -> onnx.ModelProto:
    return trained(network())


@pytest.fixture(scope="module")
def small_data(small: onnx.ModelProto) -> ArrayDataset:
    return labelled(small, 160)


@pytest.fixture
def desk(tmp_path: Path, small: onnx.ModelProto, small_data: ArrayDataset) -> Desk:
    return Desk(tmp_path, small, small_data, labels=LABELS)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles without figures, which take longer to draw than all the rest, where a test is not about them."""
    replace_in_compress(monkeypatch, "write_report", lambda manifest, folder: None)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real measurements of few, short bursts."""

    def few(runners: Any, *, pairs: int, seed: int, **_: Any) -> Array:
        return paired_latency(runners, pairs=min(pairs, 5), seed=seed, warmup=1, min_time_ms=0.02)

    replace_in_compress(monkeypatch, "paired_latency", few)


@dataclass(frozen=True)
class Done:
    """A bundle that holds a faster model, and what it was made from."""

    desk: Desk
    manifest: Manifest
    bundle: Path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, small: onnx.ModelProto, small_data: ArrayDataset) -> Done:
    with pytest.MonkeyPatch.context() as monkeypatch:
        Machine(ratios={1: 1.3, 8: 1.6}).use(monkeypatch)
        desk = Desk(tmp_path_factory.mktemp("done"), small, small_data, labels=LABELS)
        manifest = desk.compress(seed=3, command="ranksmith compress …")
    return Done(desk, manifest, desk.bundle)


class TestBundle:
    """What a bundle of a faster model holds."""

    def test_every_file_is_there(self, done: Done) -> None:
        names = {path.relative_to(done.bundle).parts[0] for path in done.bundle.rglob("*")}
        assert names == {
            "model.onnx", "manifest.json", "golden.npz", "labels.txt", "report.html", "report", "frontier",
        }  # fmt: skip
        assert {path.suffix for path in (done.bundle / "report").iterdir()} == {".svg", ".csv"}
        assert (done.bundle / "labels.txt").read_text().splitlines() == LABELS
        assert done.desk.left() == {"bundle"}

    def test_it_verifies_and_the_manifest_is_what_was_returned(self, done: Done) -> None:
        manifest = verify_files(done.bundle)
        assert to_json(manifest) == to_json(done.manifest)
        assert manifest.source.sha256 == sha256_of(done.desk.source.path)
        assert manifest.model.sha256 == sha256_of(done.bundle / "model.onnx")
        assert manifest.model.bytes == (done.bundle / "model.onnx").stat().st_size

    def test_it_says_what_was_asked_and_used(self, done: Done) -> None:
        manifest = done.manifest
        assert (manifest.verdict, manifest.objective, manifest.max_drop_pp, manifest.seed) == ("faster", "macs", 5.0, 3)
        assert (manifest.provider, manifest.threads, manifest.precision) == ("cpu", 1, "fp32")
        assert manifest.command == "ranksmith compress …"
        assert manifest.preprocess == PREPROCESS
        assert manifest.labels == LABELS
        assert manifest.machine.cores >= 1
        assert manifest.data.calibration == CALIBRATION
        assert manifest.data.calibration + manifest.data.selection + manifest.data.holdout == 160
        assert manifest.data.skipped == 0
        assert {"fold", "spectra", "latency table", "search", "gate"} <= set(manifest.stages_s)

    def test_the_golden_outputs_are_reproduced_by_plain_onnxruntime(self, done: Done, small_data: ArrayDataset) -> None:
        inputs, outputs = golden.load_golden(done.bundle / "golden.npz")
        assert 8 <= len(inputs["image"]) <= 32
        found = answers(done.bundle / "model.onnx", inputs["image"])
        np.testing.assert_allclose(found, outputs["scores"], rtol=1e-4, atol=1e-4)
        known = {image.tobytes() for image in inputs_of(small_data.images)}
        assert all(image.tobytes() in known for image in inputs["image"])

    def test_names_and_the_symbolic_batch_are_the_originals(self, done: Done) -> None:
        graph = onnx.load(done.bundle / "model.onnx").graph
        assert [value.name for value in graph.input] == ["image"]
        assert [value.name for value in graph.output] == ["scores"]
        assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
        for batch in (1, 3):
            assert run(done.bundle / "model.onnx", {"image": inputs_of(pictures(batch))})["scores"].shape[0] == batch
        onnx.checker.check_model(str(done.bundle / "model.onnx"), full_check=True)

    def test_accuracy_is_that_of_the_model_on_images_that_took_no_other_part(
        self, done: Done, small_data: ArrayDataset
    ) -> None:
        accuracy = done.manifest.accuracy
        parts = splits.split(small_data, calibration=CALIBRATION, seed=3)
        held = parts.holdout[len(parts.holdout) - accuracy.images :]
        assert accuracy.images == done.manifest.data.holdout
        assert accuracy.labelled
        # The labels are the original's answers.
        assert accuracy.baseline.top1 == 1.0
        right = small_data.labels[held] == answers(  # type: ignore[index]
            done.bundle / "model.onnx", inputs_of(small_data.images[held])
        ).argmax(1)
        assert accuracy.result.top1 == pytest.approx(right.mean())
        assert accuracy.agreement == pytest.approx(right.mean())
        assert accuracy.drop_pp == pytest.approx(100 * (1 - right.mean()))
        assert accuracy.drop_ci95_pp[0] <= accuracy.drop_pp <= accuracy.drop_ci95_pp[1]
        assert accuracy.drop_pp <= done.manifest.max_drop_pp

    def test_latency_is_paired_and_faster_at_every_batch_size(self, done: Done) -> None:
        assert [pair.batch for pair in done.manifest.latency] == [1, 8]
        for pair, told in zip(done.manifest.latency, (1.3, 1.6), strict=True):
            assert pair.ratio == pytest.approx(told, rel=0.01)
            assert pair.ratio == pytest.approx(float(np.median(np.divide(pair.baseline_ms, pair.result_ms))))
            assert 1.0 < pair.ci95[0] <= pair.ratio <= pair.ci95[1]
        assert done.manifest.batch_cost.batches[0] == 1
        assert done.manifest.batch_cost.beta_ms > 0

    def test_costs_are_those_of_the_two_models(self, done: Done) -> None:
        before, after = done.manifest.cost_before, done.manifest.cost_after
        model = io.load(done.bundle / "model.onnx")
        assert (after.macs, after.params) == cost(model)
        assert after.bytes == (done.bundle / "model.onnx").stat().st_size
        assert before.bytes == done.desk.source.path.stat().st_size
        assert before.macs is not None
        assert after.macs is not None
        assert after.macs < before.macs

    def test_every_conv_has_its_story(self, done: Done) -> None:
        layers = {layer.node: layer for layer in done.manifest.layers}
        assert list(layers) == [
            "stem", "block0/conv1", "block0/conv2", "block1/conv1", "block1/conv2", "block1/shortcut",
        ]  # fmt: skip
        assert layers["stem"].reason == "kept-stem"
        convs = {node.name for node in onnx.load(done.bundle / "model.onnx").graph.node if node.op_type == "Conv"}
        decomposed = [layer for layer in layers.values() if layer.reason == "decomposed"]
        assert decomposed
        for layer in layers.values():
            assert layer.detail
            assert (layer.rank is not None) == (layer.reason == "decomposed")
            assert (layer.node in convs) == (layer.reason != "decomposed")
        for layer in decomposed:
            assert {f"{layer.node}/1of2", f"{layer.node}/2of2"} <= convs
            assert layer.kind == "output-pca"
            assert layer.macs_before is not None
            assert layer.macs_after is not None
            assert layer.macs_after < layer.macs_before
            assert layer.rank is not None
            assert layer.rank <= layer.break_even_rank
            assert 0.5 < (layer.retained_energy or 0.0) <= 1.0

    def test_spectra_and_rank_errors_belong_together(self, done: Done) -> None:
        assert done.manifest.spectra
        for spectrum in done.manifest.spectra:
            expected = np.sqrt(np.clip(1 - np.asarray(spectrum.output), 0, 1))
            np.testing.assert_allclose(done.manifest.rank_errors[spectrum.node], expected, atol=1e-6)

    def test_every_plan_of_the_frontier_can_be_built_again(self, done: Done, small_data: ArrayDataset) -> None:
        points = [point for point in done.manifest.frontier if point.plan is not None]
        files = sorted(path.name for path in (done.bundle / "frontier").iterdir())
        assert files == sorted(point.plan for point in points if point.plan)
        for point in points:
            plan = from_json((done.bundle / "frontier" / str(point.plan)).read_bytes(), RankPlan)
            assert plan.source_sha256 == done.manifest.source.sha256
            model, _ = decompose(
                done.desk.source, plan, dataset=small_data, preprocess=PREPROCESS, calibration=CALIBRATION,
                fold=True, threads=1, seed=3, progress=Silent(),
            )  # fmt: skip
            assert cost(model) == (point.macs, point.params)
            if point.chosen:
                x = inputs_of(small_data.images[:8])
                again, shipped = (
                    run(content, {"image": x})["scores"] for content in (io.to_bytes(model), done.bundle / "model.onnx")
                )
                np.testing.assert_allclose(again, shipped, rtol=1e-3, atol=1e-3)

    def test_one_point_of_the_frontier_is_the_chosen_one_and_one_the_original(self, done: Done) -> None:
        frontier = done.manifest.frontier
        assert [point.name for point in frontier if point.chosen] != ["original"]
        assert sum(point.chosen for point in frontier) == 1
        assert [point.plan for point in frontier].count(None) == 1
        plans = [(done.bundle / "frontier" / point.plan).read_text() for point in frontier if point.plan]
        assert len(set(plans)) == len(plans)

    def test_the_report_needs_nothing_from_elsewhere(self, done: Done) -> None:
        page = (done.bundle / "report.html").read_text()
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


class TestRepeating:
    """The same seed, data and plan give the same file; what was done once is not done again."""

    @pytest.fixture(autouse=True)
    def _steady(self, monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
        Machine().use(monkeypatch)

    def test_two_runs_give_the_same_model_with_the_cache_and_without(self, desk: Desk) -> None:
        first, second, fresh = (desk.folder / name for name in ("first", "second", "fresh"))
        desk.compress(output=first)
        assert desk.listener.gathered
        desk.listener = Listener()
        desk.compress(output=second)
        assert not desk.listener.gathered
        assert not any(stage.startswith("Judging") for stage in desk.listener.stages)
        shutil.rmtree(desk.folder / "cache")
        desk.compress(output=fresh)
        models = [(folder / "model.onnx").read_bytes() for folder in (first, second, fresh)]
        assert models[0] == models[1] == models[2]
        goldens = [(folder / "golden.npz").read_bytes() for folder in (first, second, fresh)]
        assert goldens[0] == goldens[1] == goldens[2]

    def test_another_seed_is_another_split(self, desk: Desk) -> None:
        hashes = {desk.compress(seed=seed, overwrite=True).data.calibration_sha256 for seed in (0, 1)}
        assert len(hashes) == 2

    def test_the_names_and_order_of_files_do_not_matter(self, desk: Desk, small_data: ArrayDataset) -> None:
        assert small_data.labels is not None
        digests = []
        for turn in range(2):
            folder = desk.folder / "data"
            for number in range(60):
                place = folder / f"{small_data.labels[number]:02d}" / f"{(number * 37 + turn * 11) % 61}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(small_data.images[number]).save(place)
            for number in range(CLASSES):
                (folder / f"{number:02d}").mkdir(exist_ok=True)
            desk.data = open_dataset(folder)
            desk.labels = None
            manifest = desk.compress(output=desk.folder / f"out{turn}", calibration=20)
            digests.append((manifest.data.calibration_sha256, manifest.model.sha256))
            shutil.rmtree(folder)
        assert digests[0] == digests[1]

    def test_a_damaged_cache_is_made_again(self, desk: Desk) -> None:
        first = desk.compress()
        for path in (desk.folder / "cache").iterdir():
            path.write_bytes(path.read_bytes()[:-10])
        desk.listener = Listener()
        second = desk.compress(overwrite=True)
        assert desk.listener.gathered
        assert second.model == first.model

    def test_a_new_thread_count_needs_no_new_statistics(self, desk: Desk) -> None:
        desk.compress()
        desk.listener = Listener()
        manifest = desk.compress(threads=2, overwrite=True)
        assert not desk.listener.gathered
        assert manifest.threads == 2


class TestOutput:
    """Where the bundle goes."""

    def test_an_existing_output_is_refused_before_any_work_and_left_alone(self, desk: Desk) -> None:
        desk.bundle.mkdir()
        (desk.bundle / "dear").write_text("to someone")
        with pytest.raises(OutputError, match="bundle exists"):
            desk.compress()
        assert desk.listener.stages == []
        assert [path.name for path in desk.bundle.iterdir()] == ["dear"]

    def test_overwrite_replaces_it_wholly(self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
        Machine().use(monkeypatch)
        desk.bundle.mkdir()
        (desk.bundle / "old").write_text("old")
        desk.compress(overwrite=True)
        assert not (desk.bundle / "old").exists()
        verify_files(desk.bundle)
        assert desk.left() == {"bundle"}

    def test_a_file_is_not_replaced_by_a_bundle(self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
        Machine().use(monkeypatch)
        desk.bundle.write_text("a file")
        with pytest.raises(OutputError):
            desk.compress(overwrite=True)
        assert desk.bundle.read_text() == "a file"


class TestInterruption:
    """Ctrl-C at any moment leaves nothing half-written, and the next run goes on from there."""

    @pytest.mark.parametrize("halfway", [False, True], ids=["at the start", "halfway"])
    def test_at_every_stage_in_turn(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None, halfway: bool
    ) -> None:
        Machine().use(monkeypatch)
        desk.compress(output=desk.folder / "whole")
        expected = (desk.folder / "whole" / "model.onnx").read_bytes()
        stages = desk.listener.stages
        assert len(stages) >= 6
        interrupted = 0
        for number in range(len(stages)):
            shutil.rmtree(desk.folder / "cache")
            desk.listener = Listener(interrupt_at=number, halfway=halfway)
            try:
                desk.compress()
            except KeyboardInterrupt:
                interrupted += 1
                assert desk.left() == {"whole"}
                assert not [path for path in (desk.folder / "cache").glob("*") if path.suffix == ".part"]
            else:
                # A stage that is one step cannot be interrupted halfway.
                assert halfway
                shutil.rmtree(desk.bundle)
                continue
            before, desk.listener = desk.listener.stages, Listener()
            desk.compress()
            assert (desk.bundle / "model.onnx").read_bytes() == expected
            shutil.rmtree(desk.bundle)
            # What was finished before the interruption is not done again.
            cached = [title for title in before[:-1] if title == "Spectra" or title.startswith("Judging")]
            again = [title for title in desk.listener.stages if title == "Spectra" or title.startswith("Judging")]
            for title in set(cached):
                assert cached.count(title) + again.count(title) == stages.count(title)
        assert interrupted >= 4

    def test_while_the_bundle_is_written(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        Machine().use(monkeypatch)
        desk.bundle.mkdir()
        (desk.bundle / "old").write_text("old")

        def interrupted(manifest: Manifest, folder: Path) -> Path:
            (folder / "report.html").write_text("half")
            raise KeyboardInterrupt

        with monkeypatch.context() as inner:
            replace_in_compress(inner, "write_report", interrupted)
            with pytest.raises(KeyboardInterrupt):
                desk.compress(overwrite=True)
        assert desk.left() == {"bundle"}
        assert [path.name for path in desk.bundle.iterdir()] == ["old"]


KEPT: dict[str, tuple[Callable[[], onnx.ModelProto], set[str]]] = {
    "depthwise": (lambda: trained(network(Net(widths=(16, 16), depthwise=True))), {"kept-depthwise"}),
    "tiny channels": (lambda: trained(network(Net(widths=(4, 8)))), {"kept-stem", "kept-small"}),
    "tiny 1x1": (lambda: trained(network(Net(widths=(16, 16), kernel=1))), {"kept-small"}),
    "no Conv": (lambda: trained(flat_network()), set()),
}


class TestKeptOriginal:
    """Where nothing pays the bundle holds the folded original, and says why: a result, not an error."""

    @pytest.mark.parametrize("name", KEPT)
    def test_models_in_which_nothing_can_be_gained(self, tmp_path: Path, brief: None, name: str) -> None:
        make, reasons = KEPT[name]
        model = make()
        data = labelled(model, 60)
        manifest = Desk(tmp_path, model, data).compress(objective="latency")
        assert manifest.verdict == "kept-original"
        assert verify_files(tmp_path / "bundle").verdict == "kept-original"
        assert reasons <= {layer.reason for layer in manifest.layers}
        assert all(layer.reason.startswith("kept-") and layer.detail for layer in manifest.layers)
        assert all("cannot be decomposed" not in layer.detail for layer in manifest.layers)
        assert [(point.name, point.chosen) for point in manifest.frontier] == [("original", True)]
        assert manifest.cost_after.macs == manifest.cost_before.macs
        assert manifest.accuracy.drop_pp == 0.0
        assert manifest.accuracy.agreement == 1.0
        x = inputs_of(data.images[:5])
        np.testing.assert_allclose(
            answers(tmp_path / "bundle" / "model.onnx", x), answers(model, x), rtol=1e-3, atol=1e-3
        )
        assert "BatchNormalization" not in {
            node.op_type for node in onnx.load(tmp_path / "bundle" / "model.onnx").graph.node
        }
        assert (tmp_path / "bundle" / "report.html").is_file()

    @pytest.mark.parametrize("slow", [{1: 0.9, 8: 0.9}, {1: 1.5, 8: 0.9}, {1: 1.0, 8: 1.5}], ids=str)
    def test_a_result_that_is_slower_at_any_batch_size(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None, slow: dict[int, float]
    ) -> None:
        Machine(ratios=slow).use(monkeypatch)
        manifest = desk.compress()
        assert manifest.verdict == "kept-original"
        assert "kept-original" in {layer.reason for layer in manifest.layers}
        assert "decomposed" not in {layer.reason for layer in manifest.layers}
        assert [point.name for point in manifest.frontier if point.chosen] == ["original"]
        # What was tried is told all the same, and can be built.
        assert len(manifest.frontier) > 1
        assert {node.name for node in onnx.load(desk.bundle / "model.onnx").graph.node} >= {"block1/conv1"}

    def test_no_drop_at_all_can_be_promised_on_so_few_images(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None
    ) -> None:
        Machine().use(monkeypatch)
        manifest = desk.compress(max_drop_pp=0.0)
        assert manifest.verdict == "kept-original"
        assert manifest.max_drop_pp == 0.0

    def test_layers_that_are_slower_in_the_whole_model_are_reverted(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None
    ) -> None:
        Machine().use(monkeypatch)
        chosen = {layer.node for layer in desk.compress().layers if layer.reason == "decomposed"}
        assert len(chosen) >= 2
        slow = min(chosen)
        Machine(slower=[slow]).use(monkeypatch)
        manifest = desk.compress(overwrite=True)
        reasons = {layer.node: layer.reason for layer in manifest.layers}
        assert reasons[slow] == "kept-slower"
        assert {node for node, reason in reasons.items() if reason == "decomposed"} == chosen - {slow}
        assert sum(point.chosen for point in manifest.frontier) == 1
        Machine(slower=sorted(chosen)).use(monkeypatch)
        assert desk.compress(overwrite=True).verdict == "kept-original"

    def test_a_model_of_any_image_size_is_kept_for_that_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Machine().use(monkeypatch)
        model = trained(network(Net(image=("H", "W"))))
        manifest = Desk(tmp_path, model, labelled(model, 60)).compress()
        assert manifest.verdict == "kept-original"
        assert {layer.reason for layer in manifest.layers} == {"kept-stem", "kept-unknown-shape"}


class TestMeasured:
    """With the clock of the machine that this runs on: whatever it says, the verdict follows from it."""

    @pytest.mark.parametrize("objective", ["latency", "macs", "bytes"])
    def test_the_verdict_follows_from_the_intervals(
        self, tmp_path: Path, brief: None, bare: None, objective: str
    ) -> None:
        model = trained(network(Net(widths=(32, 64))))
        manifest = Desk(tmp_path, model, labelled(model, 120)).compress(objective=objective)
        assert manifest.objective == objective
        assert {pair.batch for pair in manifest.latency} == {1, 8}
        decomposed = [layer for layer in manifest.layers if layer.reason == "decomposed"]
        if manifest.verdict == "faster":
            assert all(pair.ci95[0] > 1.0 for pair in manifest.latency)
            assert decomposed
        else:
            assert not decomposed
        for pair in manifest.latency:
            assert len(pair.baseline_ms) == len(pair.result_ms) > 0
            assert min(*pair.baseline_ms, *pair.result_ms) > 0
        for layer in manifest.layers:
            assert layer.baseline_ms is None or layer.baseline_ms > 0
        assert verify_files(tmp_path / "bundle").verdict == manifest.verdict


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
        assert manifest.verdict == "kept-original"
        assert manifest.warnings
        assert desk.listener.warnings == manifest.warnings

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


@dataclass
class Unlucky:
    """A choice that looks right on the images that it is made on, and a first fresh image that says otherwise.

    On the images that are chosen on no model is ever right, so no plan loses anything there. The first held-out
    image is one that the strongest plan, which is chosen then, gets wrong and the original right.
    """

    desk: Desk
    options: dict[str, Any]


class Arranged(ArrayDataset):
    """Images whose labels take no part in the split."""

    def key(self, index: int) -> str:
        return f"{index:064x}"


@pytest.fixture(scope="module")
def flat_spectrum() -> onnx.ModelProto:
    return trained(network(Net(widths=(32, 64), spectrum=0.0)))


@pytest.fixture
def unlucky(tmp_path: Path, flat_spectrum: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> Unlucky:
    replace_in_compress(monkeypatch, "write_report", lambda manifest, folder: None)
    Machine().use(monkeypatch)
    images = pictures(160, seed=5)
    options: dict[str, Any] = {"max_drop_pp": 1.5, "holdout": 2, "confidence": 0.5}
    never = answers(flat_spectrum, inputs_of(images)).argmin(1)
    first = Desk(tmp_path / "first", flat_spectrum, Arranged("arranged", images, never))
    first.folder.mkdir()
    assert first.compress(**options).verdict == "faster"
    others = pictures(300, seed=6)
    right = run(flat_spectrum, {"image": inputs_of(others)})["scores"].argmax(1)
    found = run(first.bundle / "model.onnx", {"image": inputs_of(others)})["scores"].argmax(1)
    flipped = int(np.flatnonzero(right != found)[0])
    held = splits.split(first.data, calibration=CALIBRATION, seed=0).holdout[0]
    images[held], never[held] = others[flipped], right[flipped]
    (tmp_path / "second").mkdir()
    return Unlucky(Desk(tmp_path / "second", flat_spectrum, Arranged("arranged", images, never)), options)


class TestGate:
    """A promise that is not kept ends in exit code 3, and nothing is written."""

    def test_a_choice_that_does_not_hold_on_fresh_images_is_made_again(self, unlucky: Unlucky) -> None:
        manifest = unlucky.desk.compress(**unlucky.options)
        assert any("does not hold" in note for note in unlucky.desk.listener.notes)
        # The image that said so is now one of those that are chosen on, and the other still takes no part.
        assert (manifest.data.selection, manifest.data.holdout) == (61, 1)
        assert manifest.accuracy.images == 1

    def test_a_choice_that_does_not_hold_on_the_last_ones_either_is_an_error(self, unlucky: Unlucky) -> None:
        with pytest.raises(
            GateError, match=r"top-1 fell by 1\.64 pp on 61 images, more than --max-drop 1\.5"
        ) as caught:
            unlucky.desk.compress(**unlucky.options | {"holdout": 1})
        assert "--max-drop" in str(caught.value.hint)
        assert unlucky.desk.left() == set()

    def test_without_labels_it_is_agreement_that_fell(self, unlucky: Unlucky) -> None:
        images = pictures(160, seed=5)
        assert isinstance(unlucky.desk.data, ArrayDataset)
        parts = splits.split(unlucky.desk.data, calibration=CALIBRATION, seed=0)
        # Every image that is chosen on is the same one, on which all agree.
        images[parts.selection] = images[parts.selection[0]]
        images[parts.holdout] = unlucky.desk.data.images[parts.holdout[0]]
        unlucky.desk.data = Arranged("arranged", images)
        with pytest.raises(GateError, match="agreement fell"):
            unlucky.desk.compress(**unlucky.options | {"holdout": 1})

    def test_the_command_ends_with_three_and_says_what_the_best_was(
        self, unlucky: Unlucky, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(
            "ranksmith.workflow.compress.run.compress",
            lambda source, inputs, options, progress: unlucky.desk.compress(**unlucky.options | {"holdout": 1}),
        )
        np.savez(unlucky.desk.folder / "data", images=pictures(4))
        arguments = ["compress", str(unlucky.desk.source.path), "--data", str(unlucky.desk.folder / "data.npz")]
        assert command([*arguments, "-o", str(unlucky.desk.bundle), "--json"]) == 3
        printed = capsys.readouterr()
        assert printed.out == ""
        error, hint = printed.err.splitlines()[-2:]
        assert error.startswith("error: top-1 fell by 1.64 pp")
        assert hint.startswith("hint: the best plan lost 0.00 pp")
        assert not unlucky.desk.bundle.exists()


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


class TestCommand:
    """`ranksmith compress` from the command line to the file."""

    @pytest.fixture
    def arguments(self, tmp_path: Path, small: onnx.ModelProto, small_data: ArrayDataset, brief: None) -> list[str]:
        save(small, tmp_path / "model.onnx")
        assert small_data.labels is not None
        np.savez(tmp_path / "images.npz", images=small_data.images, labels=small_data.labels)
        (tmp_path / "small.toml").write_text(f"size = {HW}\nmean = [127.5, 127.5, 127.5]\nstd = [64, 64, 64]\n")
        (tmp_path / "labels.txt").write_text("\n".join(LABELS))
        return [
            "compress", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "images.npz"), "--labels",
            str(tmp_path / "labels.txt"), "--preprocess", str(tmp_path / "small.toml"), "-o", str(tmp_path / "bundle"),
            "--calibration", "40", "--max-drop", "5", "--threads", "1", "--seed", "3",
        ]  # fmt: skip

    def test_json_is_the_manifest_and_nothing_else(
        self, tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command([*arguments, "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == json.loads((tmp_path / "bundle" / "manifest.json").read_text())
        manifest = from_json(printed.out, Manifest)
        assert (manifest.seed, manifest.threads, manifest.max_drop_pp) == (3, 1, 5.0)
        assert manifest.labels == LABELS
        assert manifest.preprocess.name == "small"
        assert printed.err

    def test_plain_output_says_what_was_gained_what_it_cost_and_where_it_is(
        self, tmp_path: Path, arguments: list[str], bare: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command([*arguments, "--quiet"]) == 0
        out = capsys.readouterr().out
        assert "faster" in out
        assert "held-out images" in out
        assert str(tmp_path / "bundle" / "model.onnx") in out
        assert str(tmp_path / "bundle" / "report.html") in out
        manifest = verify_files(tmp_path / "bundle")
        assert ("not made faster" in out) == (manifest.verdict == "kept-original")
        # The bundle is a model for every other verb.
        assert command(["inspect", str(tmp_path / "bundle"), "--json"]) == 0

    def test_a_faster_result_is_told_with_its_intervals(
        self,
        arguments: list[str],
        bare: None,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        Machine(ratios={1: 1.3, 8: 1.6}).use(monkeypatch)
        assert command([*arguments, "--objective", "macs"]) == 0
        out = capsys.readouterr().out
        assert "1.30x faster at batch 1" in out
        assert "1.60x faster at batch 8" in out
        assert out.count("95 % interval") == 3
        assert "Convs decomposed" in out

    def test_the_library_is_quiet_about_a_missing_model(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command(["compress", str(tmp_path / "none.onnx"), "-o", str(tmp_path / "bundle")]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert list(tmp_path.iterdir()) == []
