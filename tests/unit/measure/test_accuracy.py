"""Scores, drops, agreement and divergence of logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from ranksmith.data.loader import load
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import DataError, ModelError
from ranksmith.measure.accuracy import (
    agreement,
    check_labels,
    class_output,
    drop_pp,
    kl,
    log_softmax,
    logits,
    score,
    single_input,
    squared_change,
    top_k_hits,
)
from ranksmith.results import Preprocess
from ranksmith.runtime.session import open_session
from tests.models import GraphBuilder, classifier, run

PLAIN = Preprocess(name="plain", size=(8, 8), mean=(128.0,) * 3, std=(64.0,) * 3)


def _random(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100), k=st.integers(1, 6), levels=st.integers(2, 50))
def test_top_k_is_what_a_stable_sort_says(seed: int, k: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    # Few levels make many ties.
    answers = rng.integers(0, levels, (20, 6)).astype(np.float32)
    labels = rng.integers(0, 6, 20)
    sorted_classes = np.argsort(-answers, axis=1, kind="stable")[:, :k]
    assert (top_k_hits(answers, labels, k) == (sorted_classes == labels[:, None]).any(axis=1)).all()


def test_a_score_counts_hits() -> None:
    answers = np.eye(6, dtype=np.float32)
    found = score(answers, np.array([0, 1, 2, 5, 5, 5]), 0)
    assert found.top1 == pytest.approx(4 / 6)
    assert found.top1_ci95 is not None
    assert found.top1_ci95[0] < 4 / 6 < found.top1_ci95[1]
    assert found.top5 == pytest.approx(4 / 6)


def test_without_labels_there_is_no_score() -> None:
    assert score(_random((3, 4)), None, 0).top1 is None


def test_a_drop_is_paired() -> None:
    labels = np.arange(200) % 10
    base = np.eye(10, dtype=np.float32)[labels]
    worse = base.copy()
    worse[:20] = np.roll(worse[:20], 1, axis=1)
    drop, (low, high) = drop_pp(base, worse, labels, 0)
    assert drop == pytest.approx(10.0)
    assert 5 < low < 10 < high < 15
    assert drop_pp(worse, base, labels, 0)[0] == pytest.approx(-10.0)
    assert drop_pp(worse, worse, labels, 0) == (0.0, (0.0, 0.0))


def test_without_labels_a_drop_is_of_agreement() -> None:
    base, new = _random((50, 5)), _random((50, 5), 1)
    assert drop_pp(base, new, None, 0)[0] == pytest.approx(100 * (1 - agreement(base, new)))
    assert agreement(base, base) == 1.0


def test_divergence_is_that_of_the_formula() -> None:
    a, b = _random((8, 5)).astype(np.float64), _random((8, 5), 1).astype(np.float64)
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (a, b))
    expected = (p * np.log(p / q)).sum(axis=1).mean()
    assert kl(a, b) == pytest.approx(expected)
    assert kl(a + 100, b - 1000) == pytest.approx(expected)
    assert kl(p, q) == pytest.approx(expected)
    assert kl(a, a) == 0.0


def test_divergence_survives_certainty() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert kl(certain, certain) == 0.0
    assert np.isfinite(kl(np.array([[1e4, -1e4]]), np.array([[1.0, 0.0]])))


def test_log_probabilities_add_up() -> None:
    assert np.exp(log_softmax(_random((4, 7)) * 100)).sum(axis=1) == pytest.approx(np.ones(4))


def _dataset(count: int, labels: list[int] | None = None, names: list[str] | None = None) -> ArrayDataset:
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return ArrayDataset("pictures", images, None if labels is None else np.asarray(labels, np.int64), names)


@pytest.mark.parametrize("fixed", ["N", 4])
def test_logits_are_those_of_plain_onnxruntime_for_any_batch(fixed: int | str) -> None:
    dataset = _dataset(10, list(range(10)))
    session = open_session(classifier(batch=fixed).SerializeToString(), threads=1)
    found, labels = logits(session, load(dataset, range(10), PLAIN, batch=4))
    images = (dataset.images.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 64
    np.testing.assert_allclose(found, run(classifier(), {"x": images})["logits"], atol=1e-4)
    assert labels is not None
    assert labels.tolist() == list(range(10))


def test_no_image_at_all_is_told() -> None:
    with pytest.raises(DataError, match="not one image"):
        logits(open_session(classifier().SerializeToString(), threads=1), iter(()))


def test_an_answer_that_is_not_a_number_is_an_error_and_not_a_hit() -> None:
    build = GraphBuilder()
    x = build.node("Sqrt", [build.input("x", ["N", 3, 1, 1])], "root")
    build.output(build.node("Flatten", [x], "logits"), ["N", 3])
    dataset = ArrayDataset("dark", np.zeros((2, 1, 1, 3), np.uint8))
    dark = Preprocess(name="dark", size=(1, 1), mean=(1.0, 1.0, 1.0))
    with pytest.raises(ModelError, match="not a number"):
        logits(open_session(build.model().SerializeToString(), threads=1), load(dataset, [0, 1], dark, batch=2))


def _outputs(*shapes: list[int | str]) -> GraphBuilder:
    build = GraphBuilder()
    x = build.input("x", ["N", 3, 4, 4])
    for index, shape in enumerate(shapes):
        kind = {4: "Identity", 2: "Flatten"}[len(shape)]
        source = build.node("GlobalAveragePool", [x], f"pool{index}") if shape[2:] == [1, 1] else x
        build.output(build.node(kind, [source], f"y{index}"), shape)
    return build


@pytest.mark.parametrize(
    ("shapes", "name"),
    [([["N", 3, 4, 4], ["N", 48]], "y1"), ([["N", 3, 1, 1]], "y0"), ([["N", 48], ["N", 48]], "y0")],
)
def test_the_class_output_is_the_first_that_has_its_shape(shapes: list[list[int | str]], name: str) -> None:
    assert class_output(open_session(_outputs(*shapes).model().SerializeToString(), threads=1)) == name


def test_a_model_that_is_no_classifier_is_told() -> None:
    with pytest.raises(ModelError, match="no classifier"):
        class_output(open_session(_outputs(["N", 3, 4, 4]).model().SerializeToString(), threads=1))


def test_several_inputs_are_told() -> None:
    build = GraphBuilder()
    build.output(build.node("Add", [build.input("a", ["N", 2]), build.input("b", ["N", 2])], "y"), ["N", 2])
    with pytest.raises(ModelError, match="2 inputs"):
        single_input(open_session(build.model().SerializeToString(), threads=1))


def test_labels_of_another_number_than_the_outputs_are_told_with_both() -> None:
    with pytest.raises(DataError, match="2 labels do not match the number of outputs, 10"):
        check_labels(_dataset(2, [0, 1], ["a", "b"]), 10)
    with pytest.raises(DataError, match="up to 12 do not match the number of outputs, 10"):
        check_labels(_dataset(2, [0, 12]), 10)
    check_labels(_dataset(2, [0, 9]), 10)


def test_squared_change_is_of_centred_logits_and_the_limit_of_a_hot_divergence() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 10))
    b = a + 0.1 * rng.normal(size=a.shape)
    assert squared_change(a, a + rng.normal(size=(30, 1))) == pytest.approx(0.0, abs=1e-20)
    assert squared_change(a, b) == pytest.approx(squared_change(b, a))
    assert squared_change(a, b) == pytest.approx(squared_change(softmax(a, axis=1), softmax(b, axis=1)))
    hot = 1e3
    assert squared_change(a, b) == pytest.approx(2 * hot**2 * kl(a / hot, b / hot), rel=1e-2)
