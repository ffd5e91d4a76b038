"""Accuracy of a classifier, and how two classifiers' answers differ.

Logits are [N, classes]. A label's place among an image's logits is the number of larger logits, plus the
number of equal ones of a lower class, so ties are broken as by a stable argmax; top-k counts places
below k. The divergence is KL(A ‖ B) = Σ p_A · (log p_A − log p_B) of the softmax, in nats; outputs that are
probabilities already are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.dataset import Dataset
from ranksmith.data.loader import Batch
from ranksmith.errors import DataError, ModelError
from ranksmith.measure.bootstrap import mean_ci95
from ranksmith.results import Interval, Score
from ranksmith.runtime.session import Session, fixed_batch

__all__ = [
    "agreement",
    "as_logits",
    "check_labels",
    "class_output",
    "drop_pp",
    "kl",
    "log_softmax",
    "logits",
    "score",
    "single_input",
    "squared_change",
    "top_k_hits",
]

Logits = NDArray[np.floating[Any]]


def class_output(session: Session) -> str:
    """The name of the output that holds the logits: the first that is [N, classes] (or [N, classes, 1, 1]).

    Raises:
        ModelError: there is none.
    """
    for value in session.outputs:
        shape = value.shape
        if shape is None and len(session.outputs) == 1:
            return value.name
        if not value.dtype.startswith("float") or not shape or len(shape) < 2 or shape[1] == 1:
            continue
        if all(side == 1 for side in shape[2:]):
            return value.name
    shapes = ", ".join(f"{value.name} {value.shape}" for value in session.outputs)
    raise ModelError(f"{session.name}: no output of shape [N, classes], so it is no classifier (outputs: {shapes})")


def single_input(session: Session) -> str:
    """The name of the one input, which takes the images.

    Raises:
        ModelError: there are several.
    """
    if len(session.inputs) != 1:
        names = ", ".join(value.name for value in session.inputs)
        raise ModelError(
            f"{session.name}: {len(session.inputs)} inputs ({names}), where one that takes images is expected"
        )
    return session.inputs[0].name


def logits(session: Session, batches: Iterable[Batch]) -> tuple[Logits, NDArray[np.int64] | None]:
    """Run all batches: logits [N, classes], and labels [N] where the dataset has them.

    Raises:
        ModelError: the model has no class output, or an answer is not a number.
        DataError: no batch came.
    """
    source, target, fixed = single_input(session), class_output(session), fixed_batch(session)
    rows: list[Logits] = []
    labels: list[NDArray[np.int64]] = []
    for batch in batches:
        images = batch.images
        if fixed is not None and len(images) < fixed:
            # A model of a fixed batch takes the last, smaller one filled up with its last image.
            images = np.concatenate([images, np.repeat(images[-1:], fixed - len(images), axis=0)])
        answers = session.run({source: images}, [target])[0][: len(batch)]
        rows.append(as_logits(answers, session.name))
        if batch.labels is not None:
            labels.append(batch.labels)
    if not rows:
        raise DataError("not one image could be read")
    return np.concatenate(rows), np.concatenate(labels) if labels else None


def as_logits(output: NDArray[Any], name: str) -> Logits:
    """An output [N, classes, …ones] as [N, classes].

    Raises:
        ModelError: it holds something that is not a number: comparisons with it would count as hits.
    """
    flat: Logits = output.reshape(len(output), -1)
    if np.isnan(flat).any():
        raise ModelError(f"{name}: its output is not a number (NaN) for some images")
    return flat


def check_labels(dataset: Dataset, classes: int) -> None:
    """Check that the dataset's classes are the model's.

    Raises:
        DataError: they differ in number.
    """
    names = dataset.class_names
    hint = "give the model's classes with --labels FILE, one a line"
    if names is not None and len(names) != classes:
        raise DataError(f"{dataset.name}: {len(names)} labels do not match the number of outputs, {classes}", hint=hint)
    if dataset.labels is not None and dataset.labels.size and int(dataset.labels.max()) >= classes:
        raise DataError(
            f"{dataset.name}: labels up to {int(dataset.labels.max())} do not match the number of outputs, {classes}",
            hint=hint,
        )


def top_k_hits(answers: Logits, labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Whether each image's label is among its `k` largest logits, [N]."""
    own = np.take_along_axis(answers, labels[:, None], axis=1)
    lower = np.arange(answers.shape[1]) < labels[:, None]
    place = (answers > own).sum(axis=1) + ((answers == own) & lower).sum(axis=1)
    hits: NDArray[np.bool_] = place < k
    return hits


def score(answers: Logits, labels: NDArray[np.int64] | None, seed: int, *, looks: int = 1) -> Score:
    """Top-1 with its interval, and top-5; all None without labels.

    Args:
        looks: as for `mean_ci95`.
    """
    if labels is None:
        return Score(top1=None, top1_ci95=None, top5=None)
    top1, top5 = top_k_hits(answers, labels, 1), top_k_hits(answers, labels, 5)
    return Score(top1=float(top1.mean()), top1_ci95=mean_ci95(top1, seed, looks=looks), top5=float(top5.mean()))


def drop_pp(
    base: Logits, new: Logits, labels: NDArray[np.int64] | None, seed: int, *, looks: int = 1
) -> tuple[float, Interval]:
    """Percentage points of top-1 lost from `base` to `new` on the same images, with a paired interval.

    Without labels, the percentage points of agreement lost: `base` is then right by definition.

    Args:
        looks: as for `mean_ci95`.
    """
    truth = base.argmax(axis=1) if labels is None else labels
    before = top_k_hits(base, truth, 1).astype(np.float64)
    after = top_k_hits(new, truth, 1).astype(np.float64)
    lost = 100.0 * (before - after)
    return float(lost.mean()), mean_ci95(lost, seed, looks=looks)


def agreement(a: Logits, b: Logits) -> float:
    """The fraction of images to which both give the same class."""
    return float((a.argmax(axis=1) == b.argmax(axis=1)).mean())


def kl(a: Logits, b: Logits) -> float:
    """Mean KL(A ‖ B) in nats."""
    log_a, log_b = log_softmax(a), log_softmax(b)
    probabilities = np.exp(log_a)
    # A probability of zero contributes nothing, whatever the other says.
    terms = np.where(probabilities > 0, probabilities * (log_a - log_b), 0.0)
    return float(terms.sum(axis=1).mean())


def squared_change(a: Logits, b: Logits) -> float:
    """Mean square, over images and classes, of the change of the centred logits.

    Twice the limit of T²·KL at a high temperature T (Hinton et al. 2015, "Distilling the knowledge in a neural
    network"). Unlike KL at temperature 1, it weighs images that the model is sure of like the others.
    """
    change = log_softmax(b) - log_softmax(a)
    change -= change.mean(axis=1, keepdims=True)
    return float(np.square(change).mean())


def log_softmax(answers: Logits) -> NDArray[np.float64]:
    """Logarithms of the class probabilities, float64 [N, classes]."""
    values = np.asarray(answers, np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
        return np.log(np.maximum(values, np.finfo(np.float64).tiny))
    shifted = values - values.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
