"""The verbs that measure: evaluate, bench, compare, doctor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranksmith.cli import app as cli
from ranksmith.measure import evaluate as evaluation
from tests.models import classifier, mlp, save


@pytest.fixture(autouse=True)
def _few_timed_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_TIMED_BATCHES", 3)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save(classifier(hw=(32, 32)), tmp_path / "small.onnx"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    path = tmp_path / "pictures.npz"
    np.savez(path, images=rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8), labels=rng.integers(0, 10, 20))
    return str(path)


def _json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_evaluate_prints_one_document(model: str, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", model, "--data", data, "--batch", "4", "--threads", "1", "--json"]) == 0
    found = _json(capsys)
    assert found["schema"] == "ranksmith.evaluation/1"
    assert (found["model"], found["images"], found["batch"], found["threads"]) == ("small", 20, 4, 1)
    assert 0 <= found["top1_ci95"][0] <= found["top1"] <= found["top1_ci95"][1] <= 1
    for part in ("model", "end_to_end"):
        assert set(found["latency_ms"][part]) == {"mean", "p50", "p90", "p99"}
    assert {"top5", "throughput", "machine"} <= set(found)


def test_evaluate_shows_a_table_and_its_guess(model: str, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", model, "--data", data, "--limit", "5", "--threads", "1"]) == 0
    shown = capsys.readouterr()
    for word in ("top-1", "end to end", "images/s", "cifar10"):
        assert word in shown.out
    assert "warning: preprocessing guessed" in shown.err


def test_evaluate_without_labels_says_what_to_do(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "unlabelled.npz"
    np.savez(path, images=np.zeros((3, 32, 32, 3), np.uint8))
    assert cli.run(["evaluate", model, "--data", str(path), "--preprocess", "cifar10", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "no labels" in shown
    assert "top-1" not in shown


def test_evaluate_keeps_to_a_fixed_batch(tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = save(classifier(hw=(32, 32), batch=3), tmp_path / "fixed.onnx")
    assert cli.run(["evaluate", str(fixed), "--data", data, "--threads", "1", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["batch"] == 3
    assert json.loads(shown.out)["images"] == 20
    assert "--batch 3" in shown.err


def test_evaluate_tells_labels_that_do_not_match(
    model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    assert cli.run(["evaluate", model, "--data", data, "--labels", str(labels)]) == 1
    shown = capsys.readouterr().err
    assert "2 labels do not match the number of outputs, 10" in shown
    assert "hint:" in shown


def test_bench_prints_one_document(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = str(save(mlp(), tmp_path / "other.onnx"))
    assert cli.run(["bench", model, other, "--batch", "1,2", "--pairs", "3", "--threads", "1", "--json"]) == 0
    found = _json(capsys)
    assert found["schema"] == "ranksmith.bench/1"
    assert [(entry["model"], entry["batch"]) for entry in found["results"]] == [
        ("small", 1),
        ("other", 1),
        ("small", 2),
        ("other", 2),
    ]
    assert found["results"][1]["speedup"]["ratio"] > 0
    assert len(found["results"][1]["speedup"]["ci95"]) == 2


def test_bench_shows_a_table_with_the_reference_first(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", model, model, "--pairs", "3", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if "small.onnx" in line]
    assert "reference" in lines[0]
    assert re.search(r"\d\.\d{3}x +\[\d\.\d{3}, \d\.\d{3}\]", lines[1])


def test_bench_on_a_fixed_batch_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = str(save(classifier(batch=1), tmp_path / "fixed.onnx"))
    assert cli.run(["bench", fixed, "--batch", "8"]) == 1
    assert "hint: use --batch 1" in capsys.readouterr().err


def test_a_provider_that_is_not_here_is_one_line_with_a_hint(
    model: str, data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for arguments in (["bench", model], ["evaluate", model, "--data", data], ["compare", model, model]):
        assert cli.run([*arguments, "--provider", "cuda"]) == 1
        shown = capsys.readouterr().err
        assert "error: provider 'cuda'" in shown
        assert "hint: pip install onnxruntime-gpu" in shown


def test_compare_on_images(model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = str(save(classifier(hw=(32, 32), seed=1), tmp_path / "other.onnx"))
    arguments = ["compare", model, other, "--data", data, "--images", "12", "--threads", "1"]
    assert cli.run([*arguments, "--json"]) == 0
    found = _json(capsys)
    assert (found["a"], found["b"], found["images"], found["data"]) == ("small", "other", 12, "pictures")
    assert found["outputs"][0]["max_abs"] > 0
    assert found["kl"] > 0
    assert cli.run(arguments) == 0
    assert "top-1 agreement" in capsys.readouterr().out


def test_compare_without_data_is_on_random_inputs_and_says_so(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", model, model, "--threads", "1", "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (found["images"], found["data"], found["agreement"]) == (32, "random inputs", 1.0)
    assert "random inputs" in shown.err


def test_doctor_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    found = _json(capsys)
    assert found["schema"] == "ranksmith.doctor/1"
    assert found["providers"][0]["name"] == "cpu"
    assert cli.run(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "ranks are multiples of" in shown
    assert "how to get it" in shown
