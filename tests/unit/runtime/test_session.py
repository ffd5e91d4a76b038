"""Sessions: what they tell of a model, what they refuse, and how."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_allclose

from ranksmith.errors import ModelError, ProviderError, UsageError
from ranksmith.runtime import onnxruntime as ort_sessions
from ranksmith.runtime import openvino as openvino_sessions
from ranksmith.runtime.session import default_threads, fixed_batch, open_session
from tests.models import GraphBuilder, classifier, random_feeds, run, save

MODEL = classifier()
FEEDS = random_feeds(MODEL, batch=3)

_no_openvino = importlib.util.find_spec("openvino") is None
PROVIDERS = [
    "cpu",
    pytest.param("openvino", marks=pytest.mark.skipif(_no_openvino, reason="extra openvino is not installed")),
]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_session_gives_the_models_outputs(provider: str, tmp_path: Path) -> None:
    expected = run(MODEL, FEEDS)["logits"]
    for model in (MODEL.SerializeToString(), save(MODEL, tmp_path / "model.onnx")):
        session = open_session(model, provider=provider, threads=1)
        assert (session.provider, session.threads) == (provider, 1)
        assert_allclose(session.run(FEEDS)[0], expected, atol=1e-4)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_outputs_come_in_the_order_asked_for_and_are_kept(provider: str) -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 2])
    build.output(build.node("Relu", [x], "up"), ["N", 2])
    build.output(build.node("Neg", [x], "down"), ["N", 2])
    session = open_session(build.model().SerializeToString(), provider=provider, threads=1)
    down, up = session.run({"x": np.ones((1, 2), np.float32)}, ["down", "up"])
    session.run({"x": np.zeros((1, 2), np.float32)})
    assert down.tolist() == [[-1, -1]]
    assert up.tolist() == [[1, 1]]


def test_inputs_and_outputs_are_described_with_symbolic_dimensions() -> None:
    session = open_session(MODEL.SerializeToString(), threads=1)
    (source,), (target,) = session.inputs, session.outputs
    assert (source.name, source.dtype, source.shape) == ("x", "float32", ["N", 3, 8, 8])
    assert (target.name, target.dtype, target.shape) == ("logits", "float32", ["N", 10])
    assert fixed_batch(session) is None
    assert fixed_batch(open_session(classifier(batch=4).SerializeToString(), threads=1)) == 4


@pytest.mark.skipif(_no_openvino, reason="extra openvino is not installed")
def test_openvino_knows_the_fixed_dimensions() -> None:
    session = open_session(MODEL.SerializeToString(), provider="openvino", threads=1)
    assert session.inputs[0].shape == ["?", 3, 8, 8]
    assert session.inputs[0].dtype == "float32"


def test_all_cores_are_used_unless_told_otherwise() -> None:
    assert open_session(MODEL.SerializeToString()).threads == default_threads() >= 1


def test_options_fix_the_threads_and_do_not_spin() -> None:
    options = ort_sessions.make_options(3)
    assert options.intra_op_num_threads == 3
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "feeds",
    [
        {"y": FEEDS["x"]},
        {"x": FEEDS["x"][0]},
        {"x": FEEDS["x"][:, :2]},
    ],
)
def test_wrong_feeds_are_told_in_one_line(provider: str, feeds: dict[str, np.ndarray]) -> None:
    session = open_session(MODEL.SerializeToString(), provider=provider, threads=1)
    with pytest.raises(ModelError, match="cannot run it") as caught:
        session.run(feeds)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_output_that_does_not_exist_is_told(provider: str) -> None:
    with pytest.raises(ModelError, match="nothing"):
        open_session(MODEL.SerializeToString(), provider=provider, threads=1).run(FEEDS, ["nothing"])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_is_no_model_is_told_in_one_line(provider: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(MODEL.SerializeToString()[:300])
    with pytest.raises(ModelError, match=r"broken\.onnx.*cannot load it") as caught:
        open_session(path, provider=provider)
    assert "\n" not in caught.value.message
    with pytest.raises(ModelError, match="the model in memory"):
        open_session(b"text", provider=provider)
    if provider == "cpu":
        assert capfd.readouterr().err == ""


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        open_session(tmp_path / "absent.onnx")


def test_an_unknown_provider_or_too_few_threads_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="'gpu'") as caught:
        open_session(b"", provider="gpu")
    assert "cuda" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="0 threads"):
        open_session(b"", threads=0)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_provider_that_is_not_built_in_tells_what_to_install(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match=provider) as caught:
        open_session(MODEL.SerializeToString(), provider=provider)
    assert "onnxruntime-gpu" in (caught.value.hint or "")


def test_a_provider_that_silently_falls_back_to_the_cpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCpu:
        def __init__(self, *arguments: object, **options: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCpu)
    with pytest.raises(ProviderError, match="does not start"):
        open_session(MODEL.SerializeToString(), provider="cuda")


def test_openvino_that_is_not_installed_tells_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_sessions, "installed", lambda: False)
    with pytest.raises(ProviderError, match="openvino-bf16") as caught:
        open_session(MODEL.SerializeToString(), provider="openvino-bf16")
    assert "ranksmith[openvino]" in (caught.value.hint or "")


@pytest.mark.skipif(_no_openvino, reason="extra openvino is not installed")
def test_a_signal_is_handled_whatever_openvino_sessions_have_come_and_gone(tmp_path: Path) -> None:
    """In a process of its own, which a segmentation fault would end."""
    script = """
import gc, signal, sys
from pathlib import Path
from ranksmith.runtime.session import open_session

model = Path(sys.argv[1])
first = open_session(model, provider="openvino", threads=1)
second = open_session(model, provider="openvino-bf16", threads=1)
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    path = save(MODEL, tmp_path / "model.onnx")
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
