"""The model a worker serves: its session, what goes in and out, and what a batch costs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith import config
from ranksmith.data import preprocess as preprocessing
from ranksmith.errors import DataError, ModelError
from ranksmith.measure.latency import random_feeds
from ranksmith.results import Preprocess, ValueInfo
from ranksmith.runtime.session import Session, open_session
from ranksmith.serve.cost import CostCurve
from ranksmith.serve.frames import Tensor
from ranksmith.serve.messages import Hello, Prediction, TensorInfo, WorkerSpec
from ranksmith.serve.oip.datatypes import datatype_name, lookup

__all__ = ["Feeds", "ServedModel"]

Array = NDArray[Any]
Feeds = dict[str, Array]

_WARM_ROUNDS = (3, 20)
_WARM_S = 0.5
# A batch costs half a millisecond beside the session, more than a busy machine's timings tell apart: waking threads and
# processes, and caches that the session has emptied. Nobody minds waiting for others that much longer.
_SHORT_MS = 13.0


@dataclass(eq=False)
class ServedModel:
    """A loaded model.

    Attributes:
        is_batchable: whether rows of several requests may run together: the first dimension of every input and
            output is symbolic.
        crash_on: see `config.crash_on`.
        curve: what a batch costs; measured by `warm`.
        limit: how many rows are worth running together.
    """

    spec: WorkerSpec
    session: Session
    preprocess: Preprocess | None
    notes: list[str]
    is_batchable: bool
    crash_on: float | None = None
    curve: CostCurve = field(default_factory=lambda: CostCurve(0.0, 1.0))
    limit: int = 1

    @classmethod
    def open(cls, spec: WorkerSpec) -> ServedModel:
        """
        Raises:
            ModelError: the file cannot be loaded, or has inputs or outputs that cannot be served.
        """
        session = open_session(Path(spec.model), provider=spec.provider, threads=spec.threads)
        values = (*session.inputs, *session.outputs)
        if missing := [value.name for value in values if value.shape is None]:
            raise ModelError(f"{spec.model}: the shape of {missing[0]} is not known, so it cannot be served")
        preprocess, notes = spec.preprocess, []
        if preprocess is None and len(session.inputs) == 1:
            try:
                preprocess, note = preprocessing.guess(session.inputs[0].shape)
                notes.append(note)
            except DataError as error:
                notes.append(f"no images: {error.message}")
        batchable = all(value.shape and isinstance(value.shape[0], str) for value in values)
        return cls(spec, session, preprocess, notes, batchable, config.crash_on())

    def warm(self) -> None:
        """Run every batch size once, so that no request pays for it, and fit the cost of a batch."""
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= self.spec.max_batch] if self.is_batchable else [1]
        if self.is_batchable and self.spec.max_batch not in sizes:
            sizes.append(self.spec.max_batch)
        times = self._timed(sizes)
        self.curve = CostCurve.fit(sizes, times) if len(sizes) > 1 else CostCurve(0.0, times[0])
        if self.is_batchable:
            largest = sizes[-1]
            self.limit = max(self.curve.useful_limit(largest), self.curve.rows_within(_SHORT_MS, largest))

    def _timed(self, sizes: Sequence[int]) -> list[float]:
        """Of each size the least milliseconds, from rounds over all sizes: noise comes in bursts."""
        feeds = [random_feeds(self.session, size if self.is_batchable else self._fixed_rows, 0) for size in sizes]
        least = [math.inf] * len(sizes)
        fewest, most = _WARM_ROUNDS
        end = time.perf_counter() + _WARM_S
        for number in range(most):
            for place, given in enumerate(feeds):
                start = time.perf_counter()
                self.session.run(given)
                least[place] = min(least[place], 1e3 * (time.perf_counter() - start))
            if number + 1 >= fewest and time.perf_counter() > end:
                break
        return least

    @property
    def _fixed_rows(self) -> int:
        shape = self.session.inputs[0].shape
        return shape[0] if shape and isinstance(shape[0], int) else 1

    @property
    def hello(self) -> Hello:
        """What the others are told of it."""
        return Hello(
            name=self.spec.name,
            generation=self.spec.generation,
            inputs=[_told(value) for value in self.session.inputs],
            outputs=[_told(value) for value in self.session.outputs],
            max_batch=self.spec.max_batch if self.is_batchable else 1,
            limit=self.limit,
            alpha_ms=self.curve.alpha_ms,
            beta_ms=self.curve.beta_ms,
            takes_images=self.preprocess is not None,
            notes=self.notes,
        )

    def feeds(self, tensors: Sequence[Tensor]) -> Feeds:
        """Arrays over the tensors' own memory, by input."""
        return {
            tensor.name: np.frombuffer(tensor.data, lookup(tensor.datatype).dtype).reshape(tensor.shape)
            for tensor in tensors
        }

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """The wanted outputs (all where none are named).

        Raises:
            ModelError: the runtime fails.
        """
        if self.crash_on is not None and any(
            self.crash_on in array.reshape(len(array), -1)[:, 0] for array in feeds.values()
        ):
            os.abort()
        names = list(outputs) or [value.name for value in self.session.outputs]
        return dict(zip(names, self.session.run(feeds, names), strict=True))

    def predictions(self, logits: Array, top_k: int) -> list[Prediction]:
        """The most probable classes of one row."""
        probabilities = _probabilities(np.asarray(logits, np.float64).ravel())
        order = np.argsort(-probabilities, kind="stable")[: max(top_k, 1)]
        labels = self.spec.labels or []
        return [
            Prediction(
                label=labels[index] if index < len(labels) else None,
                index=int(index),
                probability=float(probabilities[index]),
            )
            for index in order
        ]


def _probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax, unless the model ends in one."""
    if scores.min() >= 0 and abs(scores.sum() - 1.0) < 1e-3:
        return scores
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum())


def _told(value: ValueInfo) -> TensorInfo:
    shape = [dimension if isinstance(dimension, int) else -1 for dimension in value.shape or []]
    return TensorInfo(value.name, datatype_name(np.dtype(value.dtype)), shape)
