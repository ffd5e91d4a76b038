"""Batches of prepared images, read and decoded in threads ahead of whoever consumes them.

Order is kept. The number of images under way is bounded, so memory is too. A consumer that stops early,
or raises, ends the threads by closing the iterator (which a `for` loop's end or garbage collection does).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.dataset import Dataset
from ranksmith.data.preprocess import prepare
from ranksmith.errors import DataError
from ranksmith.results import Preprocess

__all__ = ["Batch", "load", "make_batch"]

_MOST_WORKERS = 8


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images of a dataset, ready for a model.

    Attributes:
        indices: where each stands in the dataset, int64 [n].
        images: float32 [n, 3, h, w].
        labels: int64 [n], or None for an unlabelled dataset.
    """

    indices: NDArray[np.int64]
    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.indices)


def load(
    dataset: Dataset,
    indices: Sequence[int] | NDArray[np.integer],
    preprocess: Preprocess,
    *,
    batch: int,
    workers: int | None = None,
    skipped: list[str] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Iterator[Batch]:
    """Yield the images at `indices`, in order, in batches of `batch` (the last may be smaller).

    An image that cannot be read is left out (the next takes its place in the batch).

    Args:
        workers: decoding threads; by default as many as there are cores, at most 8.
        skipped: the reason for each image left out is appended here, unless it is there already.
        warn: called once with each reason that is new in `skipped`.
    """
    reasons = [] if skipped is None else skipped
    ready: list[tuple[int, NDArray[np.float32]]] = []
    with closing(_in_order(dataset, indices, preprocess, workers or _default_workers(), batch)) as results:
        for index, result in results:
            if isinstance(result, DataError):
                if result.message not in reasons:
                    reasons.append(result.message)
                    if warn is not None:
                        warn(f"skipped: {result.message}")
                continue
            ready.append((index, result))
            if len(ready) == batch:
                yield _batch(dataset, ready)
                ready = []
    if ready:
        yield _batch(dataset, ready)


def make_batch(dataset: Dataset, indices: Sequence[int] | NDArray[np.integer], preprocess: Preprocess) -> Batch:
    """One batch, here and now, in the calling thread.

    Raises:
        DataError: an image cannot be read.
    """
    return _batch(dataset, [(int(index), prepare(dataset.read(int(index)), preprocess)) for index in indices])


def _in_order(
    dataset: Dataset,
    indices: Sequence[int] | NDArray[np.integer],
    preprocess: Preprocess,
    workers: int,
    batch: int,
) -> Generator[tuple[int, NDArray[np.float32] | DataError], None, None]:
    def job(index: int) -> NDArray[np.float32] | DataError:
        try:
            return prepare(dataset.read(index), preprocess)
        except DataError as error:
            return error

    remaining = iter(int(index) for index in indices)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ranksmith-decode")
    under_way: deque[tuple[int, Future[NDArray[np.float32] | DataError]]] = deque()
    try:
        # One batch in decoding while another is in the model, and enough to keep every thread busy.
        for index in islice(remaining, max(2 * batch, 2 * workers)):
            under_way.append((index, pool.submit(job, index)))
        while under_way:
            index, future = under_way.popleft()
            result = future.result()
            for following in islice(remaining, 1):
                under_way.append((following, pool.submit(job, following)))
            yield index, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batch(dataset: Dataset, ready: list[tuple[int, NDArray[np.float32]]]) -> Batch:
    indices = np.asarray([index for index, _ in ready], np.int64)
    labels = None if dataset.labels is None else dataset.labels[indices]
    return Batch(indices, np.stack([image for _, image in ready]), labels)


def _default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)
