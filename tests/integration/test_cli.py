"""The command line from end to end: every verb once on a small model, its JSON, and signals to a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranksmith import __version__
from ranksmith.cli.app import run
from tests.models import residual_classifier, save

HW = (16, 16)
COMMAND = Path(sys.executable).with_name("ranksmith")
WITH_IMAGES = ["--data", "images.npz", "--preprocess", "small.toml"]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, images and preprocessing."""
    desk = tmp_path / "desk"
    desk.mkdir()
    save(residual_classifier(hw=HW), desk / "model.onnx")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *HW, 3), dtype=np.uint8)
    np.savez(desk / "images.npz", images=images, labels=rng.integers(0, 10, 60))
    (desk / "small.toml").write_text("size = 16\nmean = [127.5, 127.5, 127.5]\nstd = [64.0, 64.0, 64.0]\n")
    monkeypatch.chdir(desk)
    return desk


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        (["inspect", "model.onnx"], "ranksmith.inspection/1"),
        (["fold", "model.onnx", "-o", "out"], "ranksmith.pass/1"),
        (["expose", "model.onnx", "--value", "flat", "-o", "out"], "ranksmith.pass/1"),
        (["decompose", "model.onnx", "--node", "block1/conv2=16", *WITH_IMAGES, "-o", "out"], "ranksmith.pass/1"),
        (["compare", "model.onnx", "model.onnx", *WITH_IMAGES], "ranksmith.comparison/1"),
        (["evaluate", "model.onnx", *WITH_IMAGES], "ranksmith.evaluation/1"),
        (["bench", "model.onnx", "model.onnx", "--pairs", "3"], "ranksmith.bench/1"),
        (["doctor"], "ranksmith.doctor/1"),
        (["spectrum", "model.onnx", *WITH_IMAGES, "-o", "out"], "ranksmith.spectrum/1"),
        (
            ["sweep", "model.onnx", "--node", "block1/conv2", "--ranks", "8:32:8", *WITH_IMAGES, "-o", "out"],
            "ranksmith.sweep/1",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_verb_shows_a_summary_or_prints_one_json_document(
    desk: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], schema: str
) -> None:
    assert run([*arguments, "--json"]) == 0, capsys.readouterr().err
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["schema"] == schema
    writes = "out" in arguments
    assert names(desk) == {"model.onnx", "images.npz", "small.toml"} | ({"out"} if writes else set())
    assert run([*arguments, "--quiet", *(["--overwrite"] if writes else [])]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip()
    assert not printed.out.lstrip().startswith("{")
    assert "error" not in printed.err


def test_the_command_and_the_module_are_the_same(tmp_path: Path) -> None:
    for command in ([COMMAND], [sys.executable, "-m", "ranksmith"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout == f"ranksmith {__version__}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_compress_leaves_nothing_half_written(desk: Path, number: signal.Signals) -> None:
    before = names(desk)
    command = [COMMAND, "compress", "model.onnx", *WITH_IMAGES, "-o", "out", "--calibration", "20"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()  # the first stage has begun
        assert line
        process.send_signal(number)
        told = process.stderr.read()
        assert process.wait() == 130, told
    assert told.splitlines()[-1].startswith("interrupted: ")
    assert "Traceback" not in told
    assert names(desk) == before
    assert not list(Path(os.environ["RANKSMITH_CACHE"]).rglob("*.part"))
