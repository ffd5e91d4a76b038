"""Plans built and judged on images; what was tried, and what was chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.data.loader import Batch
from ranksmith.measure import accuracy as measures
from ranksmith.progress import Advance
from ranksmith.results import PredictionAudit, RankPlan, Speedup, to_json
from ranksmith.runtime.machine import machine
from ranksmith.runtime.session import default_threads, open_session
from ranksmith.search.allocate import bytes_saved
from ranksmith.workflow.build import Builder
from ranksmith.workflow.compress.family import Choices, Family
from ranksmith.workflow.compress.gate import Judgement, judge
from ranksmith.workflow.compress.job import Job, Prepared
from ranksmith.workflow.compress.statistics import statistics_key
from ranksmith.workflow.images import ImageSet

__all__ = ["Frontier", "Judge", "Timed", "Tried"]

Array = NDArray[Any]


class Judge:
    """Builds plans and judges them against the folded original on sets of images; remembers every answer.

    Args:
        scratch: a directory for the models that are built, which are too large to be held together.
    """

    def __init__(self, job: Job, prepared: Prepared, builder: Builder, scratch: Path) -> None:
        self._job = job
        self._prepared = prepared
        self._builder = builder
        self._scratch = scratch
        self._answers: dict[tuple[str, int], tuple[Array, Array | None]] = {}

    def build(self, plan: RankPlan | None) -> bytes:
        """The model of a plan (None: the folded original); built once, as it may take half a minute."""
        if plan is None:
            return self._prepared.folded_bytes
        path = self._scratch / hashlib.sha256(_name(plan).encode()).hexdigest()
        if not path.exists():
            path.write_bytes(self._built(plan))
        return path.read_bytes()

    def _key(self, what: str, plan: RankPlan | None, **more: object) -> str:
        """Of something about a plan's model; how many bits a weight has in int8 depends on the CPU."""
        flags = machine().flags if plan is not None and plan.precision == "int8" else None
        return statistics_key(self._job, self._prepared, what, plan=_name(plan), flags=flags, **more)

    def _built(self, plan: RankPlan) -> bytes:
        if not plan.repair:
            return self._builder.build(plan)[0]
        # Repair needs the images and takes longest, and what was repaired is what was chosen: a second run, perhaps
        # for another machine, finds it here.
        cache, key = self._job.cache, self._key("model", plan)
        stored = cache.arrays(key)
        if stored is None:
            stored = {"model": np.frombuffer(self._builder.build(plan)[0], np.uint8)}
            cache.put_arrays(key, stored)
        return stored["model"].tobytes()

    def answers(self, plan: RankPlan | None, images: ImageSet) -> tuple[Array, Array, Array | None]:
        """Logits of the original and of the plan's model on `images`, and the labels."""
        result, labels = self._run(plan, images)
        return self._run(None, images)[0], result, labels

    def __call__(self, plan: RankPlan | None, images: ImageSet) -> Judgement:
        """How the plan does on `images`."""
        return judge(*self.answers(plan, images))

    def _run(self, plan: RankPlan | None, images: ImageSet) -> tuple[Array, Array | None]:
        key = _name(plan), id(images)
        if key not in self._answers:
            title = f"Judging {_title(plan)} on {images.role} images"
            with self._job.progress.stage(title, len(images)) as advance:
                self._answers[key] = self._logits(plan, images, advance)
        return self._answers[key]

    def _logits(self, plan: RankPlan | None, images: ImageSet, advance: Advance) -> tuple[Array, Array | None]:
        """Logits [N, classes], and the labels of those that could be read.

        Accuracy does not depend on the provider that is timed, so the CPU's answers are used.
        """
        job = self._job
        key = self._key("logits", plan, images=images.keys)
        cached = job.cache.arrays(key)
        if cached is not None:
            images.recall_skipped(cached["skipped"].tolist(), job.progress.warn)
            return cached["logits"], cached.get("labels")
        session = open_session(self.build(plan), threads=default_threads())

        def told() -> Iterator[Batch]:
            for batch in images.batches(job.progress.warn):
                yield batch
                advance(len(batch.indices))

        logits, labels = measures.logits(session, told())
        arrays = {"logits": logits, "skipped": np.asarray(images.skipped, np.str_)}
        if labels is not None:
            arrays["labels"] = labels
        job.cache.put_arrays(key, arrays)
        return logits, labels


def _name(plan: RankPlan | None) -> str:
    return "" if plan is None else to_json(plan)


def _title(plan: RankPlan | None) -> str:
    if plan is None:
        return "the original"
    decomposed = sum(entry.kind is not None for entry in plan.layers)
    repaired = ", repaired" if plan.repair else ""
    if plan.precision == "fp32":
        return f"a plan of {decomposed} layers{repaired}"
    if decomposed:
        return f"int8 with {decomposed} layers decomposed{repaired}"
    in_float = sum(entry.precision == "fp32" for entry in plan.layers)
    return f"int8 but for {in_float} layers" if in_float else "int8 alone"


@dataclass(frozen=True, eq=False)
class Tried:
    """A plan and how it did on the images that are chosen on.

    Attributes:
        family: what it belongs to; None for peers that are only shown.
        choices: by node; empty for peers.
        probability: that it is truly within the budget; None for peers.
        damage: estimated, in nats.
        peer_saved: multiply-adds for one image and parameters that a peer saves, which has no choices.
    """

    plan: RankPlan
    family: Family | None
    choices: Choices
    judgement: Judgement
    probability: float | None
    damage: float = 0.0
    peer_saved: tuple[int, int] = (0, 0)

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return _title(self.plan)

    def is_accepted(self, confidence: float) -> bool:
        """Whether it is probable enough that it is within the budget."""
        return self.probability is not None and self.probability >= confidence

    @property
    def macs_saved(self) -> int:
        """Multiply-adds for one image that it saves."""
        return self.peer_saved[0] + sum(option.dense_macs - option.macs for option in self.choices.values())

    @property
    def bytes_saved(self) -> float:
        """Bytes of weights that its choices save."""
        return sum(bytes_saved(option) for option in self.choices.values())

    @property
    def params_saved(self) -> int:
        """Parameters that it saves."""
        return self.peer_saved[1] + sum(option.dense_params - option.params for option in self.choices.values())


@dataclass(frozen=True)
class Timed:
    """A plan's latency at the first batch size.

    Attributes:
        speedup: time of the folded original over the plan's.
        predicted_ms: from the latency table, on the scale of the family's base as it ran beside the plan; None for
            peers.
    """

    measured_ms: float
    speedup: Speedup
    predicted_ms: float | None


@dataclass(frozen=True)
class Frontier:
    """Every plan that was judged, and the one that was chosen (None: the original).

    Attributes:
        timed: their latencies, in the same order.
        prediction: how far the latency table was off.
        looks: how many choices were judged on the held-out images.
        result_ms: time of each Conv in the chosen plan's model; empty where the provider cannot tell.
    """

    tried: list[Tried]
    timed: list[Timed]
    prediction: PredictionAudit | None
    chosen: Tried | None
    judge: Judge
    looks: int
    result_ms: dict[str, float]
