"""Plans built and judged on the selection images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.data.loader import Batch
from ranksmith.graph import io
from ranksmith.measure import accuracy as measures
from ranksmith.progress import Advance
from ranksmith.results import PlanEntry, RankPlan
from ranksmith.runtime.session import open_session
from ranksmith.search.candidates import Option
from ranksmith.workflow.cache import key_of
from ranksmith.workflow.compress.gate import Judgement, judge
from ranksmith.workflow.compress.job import ImageSet, Job, Prepared
from ranksmith.workflow.decompose import apply_plan
from ranksmith.workflow.statistics import Statistics

__all__ = ["Choices", "Frontier", "Judge", "Tried", "build", "entries_of", "logits_of", "rank_plan"]

Array = NDArray[Any]
Entries = Mapping[str, PlanEntry]
Choices = Mapping[str, Option]


def entries_of(choices: Choices) -> dict[str, PlanEntry]:
    """The choices as the entries of a rank plan."""
    return {node: PlanEntry(node=node, kind=option.kind, rank=option.rank) for node, option in choices.items()}


def build(prepared: Prepared, entries: Entries, statistics: Statistics) -> ir.Model:
    """The folded model with the planned Convs replaced."""
    model = prepared.folded.clone()
    apply_plan(model, entries, statistics)
    return model


def rank_plan(prepared: Prepared, entries: Entries) -> RankPlan:
    """The plan as it is written to frontier/, in graph order."""
    order = [info.node for info in prepared.infos if info.node in entries]
    return RankPlan(source_sha256=prepared.source_sha256, layers=[entries[node] for node in order])


def logits_of(job: Job, model: bytes, images: ImageSet, advance: Advance) -> tuple[Array, Array | None]:
    """Logits [N, classes] of a model on a set of images, and the labels of those that could be read.

    Accuracy does not depend on the provider that is timed, so the CPU's float32 answers are used.
    """
    key = key_of(
        "logits",
        model=hashlib.sha256(model).hexdigest(),
        images=images.keys,
        preprocess=str(images.preprocess),
    )
    cached = job.cache.arrays(key)
    if cached is not None:
        images.recall_skipped(cached["skipped"].tolist(), job.progress.warn)
        return cached["logits"], cached.get("labels")
    session = open_session(model, threads=job.options.threads)

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


class Judge:
    """Judges plans against the folded original on sets of images; remembers every answer."""

    def __init__(self, job: Job, prepared: Prepared, statistics: Statistics) -> None:
        self._job = job
        self._prepared = prepared
        self._statistics = statistics
        self._answers: dict[tuple[tuple[PlanEntry, ...], int], Array] = {}
        self._labels: dict[int, Array | None] = {}

    def answers(self, entries: Entries, images: Sequence[ImageSet]) -> tuple[Array, Array, Array | None]:
        """Logits of the original and of the plan's model on all of `images`, and the labels."""
        plan = tuple(entries[node] for node in sorted(entries))
        self._run(plan, entries, images)
        self._run((), {}, images)
        baseline = np.concatenate([self._answers[(), id(part)] for part in images])
        result = np.concatenate([self._answers[plan, id(part)] for part in images])
        labels = [found for part in images if (found := self._labels[id(part)]) is not None]
        return baseline, result, np.concatenate(labels) if labels else None

    def __call__(self, entries: Entries, images: Sequence[ImageSet]) -> Judgement:
        """How the plan does on all of `images`."""
        return judge(*self.answers(entries, images))

    def _run(self, plan: tuple[PlanEntry, ...], entries: Entries, images: Sequence[ImageSet]) -> None:
        missing = [part for part in images if (plan, id(part)) not in self._answers]
        if not missing:
            return
        content = self._prepared.folded_bytes
        if plan:
            content = io.to_bytes(build(self._prepared, entries, self._statistics))
        what = f"a plan of {len(plan)} layers" if plan else "the original"
        title = f"Judging {what} on {missing[0].role} images"
        with self._job.progress.stage(title, sum(len(part) for part in missing)) as advance:
            for part in missing:
                self._answers[plan, id(part)], self._labels[id(part)] = logits_of(self._job, content, part, advance)


@dataclass(frozen=True)
class Tried:
    """A plan and how it did on the images that are chosen on."""

    choices: Choices
    judgement: Judgement


@dataclass(frozen=True)
class Frontier:
    """Every plan that was judged, and the one that was chosen (empty: the original).

    Attributes:
        model_ms: latency of the folded original.
        chosen_on: the images that decided.
        held_out: the images that took part in nothing.
        reverted: nodes that the chosen plan had decomposed and that were slower in the whole model.
        dense_ms, result_ms: time of each Conv in the whole original and in the chosen plan's whole model, run in
            turn; empty where the provider cannot tell.
    """

    tried: list[Tried]
    chosen: Choices
    model_ms: float
    judge: Judge
    chosen_on: list[ImageSet]
    held_out: list[ImageSet]
    reverted: list[str]
    dense_ms: dict[str, float]
    result_ms: dict[str, float]

    def speedup(self, choices: Choices) -> float:
        """Predicted from the latency table: the original's time over that of a plan."""
        saved = sum(option.dense_ms - option.ms for option in choices.values() if option.ms and option.dense_ms)
        return self.model_ms / max(self.model_ms - saved, 1e-9)
