"""When the bundle holds the original, and that a verdict follows from what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ranksmith.bundle import golden
from ranksmith.bundle.verify import verify_files
from ranksmith.cli.app import run as command
from tests.integration.compress.desk import Desk
from tests.models import save
from tests.unit.workflow.scene import (
    HW,
    Arithmetic,
    Machine,
    Net,
    answers,
    flat_network,
    inputs_of,
    labelled,
    network,
    trained,
)

KEPT: dict[str, tuple[Callable[[], onnx.ModelProto], set[str]]] = {
    "depthwise": (lambda: network(Net(widths=(16, 16), depthwise=True)), {"kept-depthwise"}),
    "tiny channels": (lambda: network(Net(widths=(4, 8))), {"kept-stem", "kept-small"}),
    "tiny 1x1": (lambda: network(Net(widths=(16, 16), kernel=1)), {"kept-small"}),
    "no Conv": (flat_network, set()),
}


class TestKeptOriginal:
    """Where nothing pays the bundle holds the folded original, and says why: a result, not an error."""

    @pytest.mark.parametrize("name", KEPT)
    def test_models_in_which_nothing_can_be_gained_in_float(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: None, name: str
    ) -> None:
        Arithmetic().use(monkeypatch)
        make, reasons = KEPT[name]
        model = trained(make())
        data = labelled(model, 60)
        manifest = Desk(tmp_path, model, data).compress(objective="latency", precision="fp32")
        assert manifest.verdict == "kept-original"
        assert verify_files(tmp_path / "bundle").verdict == "kept-original"
        assert reasons <= {layer.reason for layer in manifest.layers}
        assert all(layer.reason.startswith("kept-") and layer.detail for layer in manifest.layers)
        assert all("cannot be decomposed" not in layer.detail for layer in manifest.layers)
        assert [(point.plan, point.chosen) for point in manifest.frontier] == [(None, False), (None, True)]
        assert manifest.cost_after.macs == manifest.cost_before.macs
        assert manifest.accuracy.drop_pp == 0.0
        assert manifest.accuracy.agreement == 1.0
        assert manifest.prediction is None
        x = inputs_of(data.images[:5])
        np.testing.assert_allclose(
            answers(tmp_path / "bundle" / "model.onnx", x), answers(model, x), rtol=1e-3, atol=1e-3
        )
        assert "BatchNormalization" not in {
            node.op_type for node in onnx.load(tmp_path / "bundle" / "model.onnx").graph.node
        }

    @pytest.mark.parametrize("name", KEPT)
    def test_such_models_can_still_be_faster_in_int8(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: None, name: str
    ) -> None:
        Arithmetic().use(monkeypatch)
        make, _ = KEPT[name]
        model = trained(make(), whiten=False)
        manifest = Desk(tmp_path, model, labelled(model, 60)).compress(objective="latency", max_drop_pp=20.0)
        decided = {layer.reason for layer in manifest.layers}
        families = {point.family: point for point in manifest.frontier}
        assert "decomposed" not in decided
        assert ("int8" in families) == bool(decided)
        assert manifest.precision == ("int8" if manifest.verdict == "faster" else "fp32")
        assert [point.family for point in manifest.frontier if point.chosen] == [
            "int8" if manifest.verdict == "faster" else "folded"
        ]
        # On this machine only what has no Conv, or changes too many answers, gains nothing by int8.
        assert (manifest.verdict == "faster") == ("quantized" in decided)
        assert all(layer.detail for layer in manifest.layers)

    def test_a_real_clock_on_a_model_in_which_little_can_be_gained(self, tmp_path: Path, brief: None) -> None:
        model = trained(network(Net(widths=(16, 16), depthwise=True)), whiten=False)
        save(model, tmp_path / "model.onnx")
        data = labelled(model, 60)
        assert data.labels is not None
        np.savez(tmp_path / "images.npz", images=data.images, labels=data.labels)
        (tmp_path / "small.toml").write_text(f"size = {HW}\nmean = [127.5, 127.5, 127.5]\nstd = [64, 64, 64]\n")
        arguments = ["compress", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "images.npz"), "--preprocess"]
        arguments += [str(tmp_path / "small.toml"), "-o", str(tmp_path / "bundle"), "--threads", "1", "--quiet"]
        assert command([*arguments, "--calibration", "20", "--max-drop", "20"]) == 0
        manifest = verify_files(tmp_path / "bundle")
        assert {"kept-depthwise", "quantized"} & {layer.reason for layer in manifest.layers}
        assert manifest.precision == ("int8" if manifest.verdict == "faster" else "fp32")
        assert all(layer.detail for layer in manifest.layers)
        page = (tmp_path / "bundle" / "report.html").read_text()
        assert all(layer.node in page for layer in manifest.layers)

    @pytest.mark.parametrize("slow", [{1: 0.9, 8: 0.9}, {1: 1.5, 8: 0.9}, {1: 1.0, 8: 1.5}], ids=str)
    def test_a_result_that_is_slower_at_any_batch_size(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None, slow: dict[int, float]
    ) -> None:
        Machine(ratios=slow).use(monkeypatch)
        manifest = desk.compress()
        assert manifest.verdict == "kept-original"
        assert "kept-original" in {layer.reason for layer in manifest.layers}
        assert "decomposed" not in {layer.reason for layer in manifest.layers}
        assert [point.name for point in manifest.frontier if point.chosen] == ["folded"]
        # What was tried is told all the same, and can be built.
        assert any(point.plan for point in manifest.frontier)
        assert {node.name for node in onnx.load(desk.bundle / "model.onnx").graph.node} >= {"block1/conv1"}

    def test_a_gain_that_is_not_clear_is_measured_again_for_longer(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None
    ) -> None:
        clear = Machine(ratios={1: 1.5, 8: 1.5}).use(monkeypatch)
        assert desk.compress().verdict == "faster"
        unclear = Machine(ratios={1: 1.02, 8: 1.02}, noise=0.4).use(monkeypatch)
        manifest = desk.compress(overwrite=True)
        assert max(unclear.rounds) > max(clear.rounds)
        assert (manifest.verdict == "faster") == all(pair.ci95[0] > 1 for pair in manifest.latency)

    def test_where_there_is_nothing_to_decide_nothing_is_measured_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: None
    ) -> None:
        model = trained(flat_network())
        for seed in range(3):
            Machine(ratios={1: 1.001, 8: 1.001}, noise=0.4).use(monkeypatch)
            desk = Desk(tmp_path, model, labelled(model, 60))
            assert desk.compress(seed=seed, overwrite=True).verdict == "kept-original"
            assert desk.listener.stages.count("Final gate: paired latency") == 1

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
        options: dict[str, Any] = {"objective": "latency", "precision": "fp32", "max_drop_pp": 10.0, "overwrite": True}
        Arithmetic().use(monkeypatch)
        chosen = {layer.node for layer in desk.compress(**options).layers if layer.reason == "decomposed"}
        assert len(chosen) >= 2
        slow = min(chosen)
        Arithmetic(slower=[slow]).use(monkeypatch)
        desk.forget()
        manifest = desk.compress(**options)
        reasons = {layer.node: layer.reason for layer in manifest.layers}
        assert reasons[slow] == "kept-slower"
        assert "decomposed" in reasons.values()
        assert sum(point.chosen for point in manifest.frontier) == 1
        Arithmetic(slower=list(reasons)).use(monkeypatch)
        desk.forget()
        assert desk.compress(**options).verdict == "kept-original"

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

    def test_another_runtime_can_be_what_is_measured(self, desk: Desk, brief: None, bare: None) -> None:
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
        manifest = desk.compress(provider="openvino")
        assert manifest.provider == "openvino"
        assert (manifest.verdict == "faster") == all(pair.ci95[0] > 1.0 for pair in manifest.latency)
        # Its profile does not name the nodes of the model.
        assert {layer.measured_ms for layer in manifest.layers} == {None}
        inputs, outputs = golden.load_golden(desk.bundle / "golden.npz")
        np.testing.assert_allclose(
            answers(desk.bundle / "model.onnx", inputs["image"]), outputs["scores"], rtol=1e-3, atol=1e-3
        )
