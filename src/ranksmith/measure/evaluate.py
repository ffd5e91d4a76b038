"""`evaluate`: a model's accuracy on a dataset, and its latency from encoded image to answer.

Two passes. The first runs all images, decoding in threads while the model runs: accuracy and throughput.
The second takes some batches one at a time, nothing else going on: the latency of the model alone and
from encoded image to answer. Latencies taken while other threads decode would be neither.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from ranksmith.data.dataset import Dataset
from ranksmith.data.loader import Batch, load, make_batch
from ranksmith.data.split import sample
from ranksmith.errors import DataError
from ranksmith.measure.accuracy import check_labels, class_output, logits, score, single_input, top_k_hits
from ranksmith.measure.bootstrap import mean_ci95
from ranksmith.measure.latency import summarize
from ranksmith.progress import Progress, Silent
from ranksmith.results import Evaluation, EvaluationLatency, Preprocess
from ranksmith.runtime.machine import machine
from ranksmith.runtime.session import Session

__all__ = ["evaluate"]

_TIMED_BATCHES = 100
_TIMED_SECONDS = 20.0
_WARMUP_BATCHES = 3


def evaluate(
    session: Session,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    batch: int = 1,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate `session` on `dataset`.

    Args:
        batch: images a run.
        limit: take only this many images, chosen at random by `seed`.
        name: what to call the model; by default what the session calls it.

    Returns:
        The evaluation; its accuracies are None where the dataset has no labels.

    Raises:
        DataError: no image can be read, or the dataset's classes are not the model's.
        ModelError: the model is not a classifier of images, or cannot run them.
    """
    progress = progress or Silent()
    indices = sample(len(dataset), limit, seed)
    classes = _declared_classes(session)
    if classes is not None:
        check_labels(dataset, classes)
    skipped: list[str] = []
    with progress.stage(f"evaluating {name or session.name}", len(indices)) as advance:
        batches = load(dataset, indices, preprocess, batch=batch, skipped=skipped, warn=progress.warn)
        start = time.perf_counter()
        readable: list[int] = []

        def counted() -> Iterator[Batch]:
            for item in batches:
                yield item
                readable.extend(item.indices.tolist())
                advance(len(item))

        try:
            answers, labels = logits(session, counted())
        except DataError as error:
            raise DataError(f"{dataset.name}: {error.message}") from error
        elapsed_s = time.perf_counter() - start
    check_labels(dataset, answers.shape[1])
    latency = _latency(session, dataset, preprocess, readable, batch, progress)
    reached = score(answers, labels, seed)
    return Evaluation(
        model=name or session.name,
        data=dataset.name,
        images=len(answers),
        skipped=len(skipped),
        top1=reached.top1,
        top1_ci95=reached.top1_ci95,
        top5=reached.top5,
        top5_ci95=None if labels is None else mean_ci95(top_k_hits(answers, labels, 5), seed),
        latency_ms=latency,
        throughput=len(answers) / elapsed_s,
        batch=batch,
        provider=session.provider,
        threads=session.threads,
        preprocess=preprocess,
        machine=machine(),
    )


def _declared_classes(session: Session) -> int | None:
    """The number of classes where the model declares it, so that a mismatch is told before the work."""
    target = class_output(session)
    shape = next(value.shape for value in session.outputs if value.name == target)
    return shape[1] if shape is not None and isinstance(shape[1], int) else None


def _latency(
    session: Session, dataset: Dataset, preprocess: Preprocess, readable: list[int], batch: int, progress: Progress
) -> EvaluationLatency:
    source, target = single_input(session), class_output(session)
    # Cycle through the images so that a small set gives enough samples too.
    timed = np.resize(np.asarray(readable), (_WARMUP_BATCHES + _TIMED_BATCHES, batch))
    model_ms: list[float] = []
    whole_ms: list[float] = []
    deadline = time.perf_counter() + _TIMED_SECONDS
    with progress.stage("timing", _TIMED_BATCHES) as advance:
        for number, indices in enumerate(timed):
            start = time.perf_counter()
            images = make_batch(dataset, indices, preprocess).images
            middle = time.perf_counter()
            session.run({source: images}, [target])
            end = time.perf_counter()
            if number < _WARMUP_BATCHES:
                continue
            model_ms.append((end - middle) * 1e3)
            whole_ms.append((end - start) * 1e3)
            advance(1)
            if end > deadline:
                break
    return EvaluationLatency(model=summarize(model_ms), end_to_end=summarize(whole_ms))
