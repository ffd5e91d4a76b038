"""Differences between two models' outputs, and paired benchmarks of several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from ranksmith.errors import DataError, ModelError, ProviderError
from ranksmith.measure.bench import bench
from ranksmith.measure.compare import compare
from ranksmith.runtime.session import Session, open_session
from tests.models import GraphBuilder, classifier, mlp, save


def _open(model: onnx.ModelProto) -> Session:
    return open_session(model.SerializeToString(), threads=1)


def _scaled(factor: float, *, source: str = "x", target: str = "y", extra: bool = False) -> Session:
    build = GraphBuilder()
    x = build.input(source, ["N", 3])
    build.output(build.node("Mul", [x, build.constant("factor", np.float32([factor]))], target), ["N", 3])
    if extra:
        build.output(build.node("Neg", [x], "extra"), ["N", 3])
    return _open(build.model())


FEEDS = [{"x": np.array([[1, 2, 3], [-4, 0, 1]], np.float32)}, {"x": np.array([[0, 0, 5]], np.float32)}]


def test_differences_are_summed_over_batches() -> None:
    found = compare(_scaled(1.0), _scaled(1.5), FEEDS, names=("one", "more"), data="three rows")
    (output,) = found.outputs
    values = np.concatenate([feed["x"] for feed in FEEDS])
    assert (found.a, found.b, found.images, found.data) == ("one", "more", 3, "three rows")
    assert output.max_abs == pytest.approx(2.5)
    assert output.mean_abs == pytest.approx(np.abs(values).mean() / 2)
    assert output.max_relative == pytest.approx(0.5)
    assert output.relative_l2 == pytest.approx(0.5)
    assert found.agreement == 1.0
    assert found.kl is not None
    assert found.kl > 0


def test_a_model_equals_itself() -> None:
    session = _open(classifier())
    feed = {"x": np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)}
    found = compare(session, session, [feed])
    assert (found.outputs[0].max_abs, found.outputs[0].relative_l2) == (0.0, 0.0)
    assert (found.agreement, found.kl) == (1.0, 0.0)


def test_disagreement_is_counted() -> None:
    assert compare(_scaled(1.0), _scaled(-1.0), FEEDS).agreement == 0.0


def test_a_difference_from_nothing_is_infinite() -> None:
    found = compare(_scaled(0.0), _scaled(1.0), FEEDS)
    assert found.outputs[0].max_relative == float("inf")


def test_only_the_outputs_both_have_are_compared() -> None:
    found = compare(_scaled(1.0, extra=True), _scaled(1.0), FEEDS)
    assert [output.output for output in found.outputs] == ["y"]


def test_other_names_are_matched_by_place() -> None:
    found = compare(_scaled(1.0), _scaled(2.0, source="image", target="answer"), FEEDS)
    assert found.outputs[0].output == "y"
    assert found.outputs[0].relative_l2 == pytest.approx(1.0)


def test_outputs_that_are_no_classes_have_no_agreement() -> None:
    build = GraphBuilder()
    build.output(build.node("Relu", [build.input("x", ["N", 3, 2, 2])], "y"), ["N", 3, 2, 2])
    session = _open(build.model())
    found = compare(session, session, [{"x": np.ones((1, 3, 2, 2), np.float32)}])
    assert (found.agreement, found.kl) == (None, None)


def test_models_that_cannot_be_compared_are_told() -> None:
    with pytest.raises(ModelError, match="outputs y, extra"):
        compare(_scaled(1.0, extra=True), _scaled(1.0, target="answer"), FEEDS)
    build = GraphBuilder()
    x = build.input("x", ["N", 3])
    build.output(build.node("Concat", [x, x], "y", axis=1), ["N", 6])
    with pytest.raises(ModelError, match="shape"):
        compare(_scaled(1.0), _open(build.model()), FEEDS)


def test_nothing_to_compare_on_is_told() -> None:
    with pytest.raises(DataError, match="nothing to compare"):
        compare(_scaled(1.0), _scaled(1.0), [])


def test_a_bench_has_an_entry_per_model_and_batch_against_the_first(tmp_path: Path) -> None:
    models = [("a", save(classifier(), tmp_path / "a.onnx")), ("b", classifier(seed=1).SerializeToString())]
    found = bench(models, batches=[1, 2], threads=1, pairs=3, seed=5)
    assert [(entry.model, entry.batch) for entry in found.results] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert (found.provider, found.threads, found.seed) == ("cpu", 1, 5)
    for entry in found.results:
        assert entry.samples == 3
        assert entry.latency_ms.p50 > 0
        assert entry.throughput == pytest.approx(entry.batch / entry.latency_ms.p50 * 1e3)
        assert entry.speedup.ci95[0] <= entry.speedup.ratio <= entry.speedup.ci95[1]
    assert found.results[0].speedup.ratio == found.results[2].speedup.ratio == 1.0


def test_models_of_different_inputs_can_be_benched_together() -> None:
    models = [("conv", classifier().SerializeToString()), ("mlp", mlp().SerializeToString())]
    assert len(bench(models, threads=1, pairs=3).results) == 2


def test_a_bench_on_a_provider_that_is_absent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError):
        bench([("a", classifier().SerializeToString())], provider="cuda")
