"""What a bundle of a faster model holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from ranksmith.bundle import golden
from ranksmith.bundle.verify import verify_files
from ranksmith.data import split as splits
from ranksmith.data.npz import ArrayDataset
from ranksmith.files import sha256_of
from ranksmith.graph import io
from ranksmith.graph.query import cost
from ranksmith.progress import Silent
from ranksmith.results import Manifest, RankPlan, from_json, to_json
from ranksmith.workflow.compress.job import DEFAULT_KINDS
from ranksmith.workflow.decompose import decompose
from tests.integration.compress.desk import CALIBRATION, LABELS, Desk
from tests.models import run
from tests.unit.workflow.scene import (
    PREPROCESS,
    Machine,
    answers,
    inputs_of,
    pictures,
)


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
            assert layer.kind in DEFAULT_KINDS
            assert layer.macs_before is not None
            assert layer.macs_after is not None
            assert layer.macs_after < layer.macs_before
            assert layer.rank is not None
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
                io.save(model, done.desk.folder / "again.onnx")
                again = (done.desk.folder / "again.onnx").read_bytes()
                (done.desk.folder / "again.onnx").unlink()
                assert again == (done.bundle / "model.onnx").read_bytes()

    def test_one_plan_of_the_frontier_is_the_chosen_one(self, done: Done) -> None:
        frontier = done.manifest.frontier
        assert [point.name for point in frontier if point.plan is None] == ["original", "folded"]
        chosen = [point for point in frontier if point.chosen]
        assert len(chosen) == 1
        assert chosen[0].plan is not None
        assert chosen[0].speedup == pytest.approx(1.3, rel=0.01)
        plans = [(done.bundle / "frontier" / point.plan).read_text() for point in frontier if point.plan]
        assert len(set(plans)) == len(plans)

    def test_the_report_needs_nothing_from_elsewhere(self, done: Done) -> None:
        page = (done.bundle / "report.html").read_text()
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
