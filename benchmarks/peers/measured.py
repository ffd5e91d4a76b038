"""Build, judge and time candidates; whatever was done stays in the cache, so that an interrupted run goes on.

A model is known by the SHA-256 of its bytes: its answers and its times are kept under that name, and a recipe leads
to it. Times are taken in heats: the folded original, an anchor that is in every heat, and a few candidates, all in
one process and interleaved. What counts is the ratio to the folded original of the same heat; how much the anchor's
ratio differs from heat to heat tells how far heats can be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

import ranksmith
from ranksmith.data.loader import Batch, load
from ranksmith.files import atomic_file
from ranksmith.graph.normalize import normalize
from ranksmith.graph.query import cost
from ranksmith.measure.accuracy import log_softmax, logits, top_k_hits
from ranksmith.measure.bootstrap import paired_ratio_ci95
from ranksmith.measure.latency import paired_latency, random_feeds
from ranksmith.results import Speedup
from ranksmith.runtime.machine import fingerprint, machine
from ranksmith.runtime.session import open_session
from ranksmith.workflow.cache import key_of
from ranksmith.workflow.inputs import image_batch

from .setting import Candidate, Setting

__all__ = ["Answers", "Bench", "Condition", "Model", "Timing"]

_HEAT = 5


@dataclass(frozen=True)
class Condition:
    """How a model is timed."""

    batch: int
    threads: int

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Timing:
    """Against the folded original of the same heat."""

    speedup: Speedup
    ms: float
    folded_ms: float
    anchor: float | None
    """Ratio of the anchor in this heat."""


@dataclass(frozen=True)
class Model:
    """A candidate that was built."""

    candidate: Candidate
    sha256: str
    bytes: int
    macs: int | None


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says to each judged image, [n] each, against the folded original.

    Attributes:
        agreeing: 1 where the class is the original's.
        lost: 1 where the original was right and the model is not, −1 the other way round.
        kl: divergence from the original, in nats.
        correct: 1 where the class is the label; the original's class stands in where there are no labels.
    """

    agreeing: NDArray[np.float64]
    lost: NDArray[np.float64]
    kl: NDArray[np.float64]
    correct: NDArray[np.float64]


class Bench:
    """Models, answers and times of one setting."""

    def __init__(self, setting: Setting, pairs: int) -> None:
        self.setting = setting
        self.pairs = pairs
        self.folded_sha256 = hashlib.sha256(setting.folded_bytes).hexdigest()
        self._folded_answers: tuple[NDArray, NDArray[np.int64] | None] | None = None
        keys = "\n".join(setting.dataset.key(int(index)) for index in setting.judged)
        self._judged_sha256 = hashlib.sha256(keys.encode()).hexdigest()
        self._code = _code_sha256()
        self._conditions = machine()
        (setting.work / "models").mkdir(parents=True, exist_ok=True)

    def model(self, candidate: Candidate) -> Model:
        """The candidate, built if it was not before."""
        key = self._recipe(candidate)
        known = self.setting.cache.json(key)
        if known is None:
            known = self._build(candidate, key)
        return Model(candidate=candidate, **known)

    def answers(self, model: Model) -> Answers:
        """The model's answers to the judged images."""
        reference, labels = self._reference()
        own, _ = self._logits(model.sha256, lambda: self._file(model))
        truth = reference.argmax(axis=1) if labels is None else labels
        before, after = (top_k_hits(rows, truth, 1).astype(np.float64) for rows in (reference, own))
        log_a, log_b = log_softmax(reference), log_softmax(own)
        weights = np.exp(log_a)
        divergence = np.where(weights > 0, weights * (log_a - log_b), 0.0).sum(axis=1)
        agreeing = (reference.argmax(axis=1) == own.argmax(axis=1)).astype(np.float64)
        return Answers(agreeing=agreeing, lost=before - after, kl=divergence, correct=after)

    def original(self) -> Answers:
        """The folded original against itself."""
        reference, labels = self._reference()
        truth = reference.argmax(axis=1) if labels is None else labels
        none = np.zeros(len(reference))
        return Answers(np.ones(len(reference)), none, none, top_k_hits(reference, truth, 1).astype(np.float64))

    def timings(self, models: Sequence[Model], condition: Condition, anchor: Model | None) -> list[Timing]:
        """Times of all models under `condition`; those not known yet are taken in heats."""
        missing = [model for model in models if self._timing(model, condition) is None]
        missing = list({model.sha256: model for model in missing}.values())
        with self.setting.progress.stage(f"Timing, {condition}", len(missing)) as advance:
            for start in range(0, len(missing), _HEAT):
                heat = missing[start : start + _HEAT]
                self._heat(heat, condition, anchor)
                advance(len(heat))
        found = [self._timing(model, condition) for model in models]
        return [timing for timing in found if timing is not None]

    def _recipe(self, candidate: Candidate) -> str:
        return key_of(
            "frontier-model",
            code=self._code,
            source=self.setting.source_sha256,
            calibration=self.setting.calibration_sha256,
            preprocess=str(self.setting.preprocess),
            seed=self.setting.seed,
            recipe=candidate.recipe,
        )

    def _build(self, candidate: Candidate, key: str) -> dict[str, object]:
        with self.setting.progress.stage(f"Building {candidate.method}, {candidate.label}"):
            content = candidate.build()
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(sha256)
        if not path.exists():
            with atomic_file(path, overwrite=True) as partial:
                partial.write_bytes(content)
        graph = ir.serde.deserialize_model(onnx.load_model_from_string(content))
        normalize(graph)  # for the shapes that the count of multiply-adds needs
        macs, _ = cost(graph)
        known: dict[str, object] = {"sha256": sha256, "bytes": len(content), "macs": macs}
        self.setting.cache.put_json(key, known)
        return known

    def _path(self, sha256: str) -> Path:
        return self.setting.work / "models" / f"{sha256[:32]}.onnx"

    def _file(self, model: Model) -> Path:
        """The model's file, built again where somebody has removed it."""
        path = self._path(model.sha256)
        if not path.exists():
            self._build(model.candidate, self._recipe(model.candidate))
        return path

    def _reference(self) -> tuple[NDArray, NDArray[np.int64] | None]:
        if self._folded_answers is None:
            self._folded_answers = self._logits(self.folded_sha256, lambda: self.setting.folded_bytes)
        return self._folded_answers

    def _logits(self, sha256: str, source: Callable[[], Path | bytes]) -> tuple[NDArray, NDArray[np.int64] | None]:
        key = key_of(
            "frontier-answers", model=sha256, images=self._judged_sha256, preprocess=str(self.setting.preprocess)
        )
        known = self.setting.cache.arrays(key)
        if known is None:
            rows, labels = logits(open_session(source(), threads=self.setting.threads), self._batches())
            known = {"logits": rows, **({} if labels is None else {"labels": labels})}
            self.setting.cache.put_arrays(key, known)
        return known["logits"], known.get("labels")

    def _batches(self) -> Iterator[Batch]:
        setting = self.setting
        batch = image_batch(setting.folded, setting.source.path)
        with setting.progress.stage("Judging", len(setting.judged)) as advance:
            for images in load(setting.dataset, setting.judged, setting.preprocess, batch=batch):
                yield images
                advance(len(images))

    def _timing_key(self, model: Model, condition: Condition) -> str:
        return key_of(
            "frontier-time",
            model=model.sha256,
            folded=self.folded_sha256,
            machine=fingerprint(self._conditions, "cpu", condition.threads),
            batch=condition.batch,
            pairs=self.pairs,
        )

    def _timing(self, model: Model, condition: Condition) -> Timing | None:
        known = self.setting.cache.json(self._timing_key(model, condition))
        if known is None:
            return None
        speedup = Speedup(ratio=known["ratio"], ci95=tuple(known["ci95"]))
        return Timing(speedup, known["ms"], known["folded_ms"], known["anchor"])

    def _heat(self, heat: Sequence[Model], condition: Condition, anchor: Model | None) -> None:
        members = {model.sha256: model for model in (*heat, *([] if anchor is None else [anchor]))}
        sources = [self.setting.folded_bytes, *(self._file(model) for model in members.values())]
        sessions = [open_session(source, threads=condition.threads) for source in sources]
        feeds = random_feeds(sessions[0], condition.batch, self.setting.seed)
        runners = [lambda session=session: session.run(feeds) for session in sessions]
        samples = paired_latency(runners, pairs=self.pairs, seed=self.setting.seed)
        speedups = {
            sha256: paired_ratio_ci95(samples[:, 0], samples[:, column], self.setting.seed)
            for column, sha256 in enumerate(members, start=1)
        }
        for column, model in enumerate(heat, start=1):
            value = {
                "ratio": speedups[model.sha256].ratio,
                "ci95": speedups[model.sha256].ci95,
                "ms": float(np.median(samples[:, column])),
                "folded_ms": float(np.median(samples[:, 0])),
                "anchor": None if anchor is None else speedups[anchor.sha256].ratio,
            }
            self.setting.cache.put_json(self._timing_key(model, condition), value)


def _code_sha256() -> str:
    """Of the code that models are made by: another commit may build another model from the same recipe."""
    root = Path(str(ranksmith.__file__)).parent
    digest = hashlib.sha256()
    for package in ("graph", "lowrank", "data", "runtime", "search", "workflow"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
