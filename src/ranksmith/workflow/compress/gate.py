"""The final gate: accuracy on images that took part in nothing, and paired latency against the original."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ranksmith.measure import accuracy as measures
from ranksmith.measure.bootstrap import mean_ci95, paired_ratio_ci95
from ranksmith.measure.latency import paired_latency, random_feeds, session_runners
from ranksmith.results import Accuracy, BatchCost, LatencyPair, Speedup
from ranksmith.runtime.session import fixed_batch, open_session
from ranksmith.search.evidence import Budget, Evidence
from ranksmith.workflow.compress.job import Job

__all__ = ["Judgement", "accuracy", "batch_cost", "judge", "paired"]

Array = NDArray[Any]
# A pair of short runs costs little; a pair of long ones says more. Milliseconds for one batch size.
_BUDGET_MS = 6_000
_MIN_PAIRS, _MAX_PAIRS = 11, 60
_COST_BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Judgement:
    """A model beside the original on the same images.

    Attributes:
        drop_pp: percentage points lost of top-1, or of agreement where there are no labels.
        losses: per image, +1 where only the original is right, −1 where only the model is, else 0
            (without labels: 1 where they disagree).
        agreement: fraction of images with the same top-1 class.
        kl: mean divergence of the model's softmax from the original's, in nats.
    """

    drop_pp: float
    losses: Array
    agreement: float
    kl: float

    @property
    def evidence(self) -> Evidence:
        """What this says about the true drop."""
        return Evidence.of(self.losses, self.kl, round((1.0 - self.agreement) * len(self.losses)))


def judge(baseline: Array, result: Array, labels: Array | None) -> Judgement:
    """Compare logits [N, classes] of the original and of a model on the same N images."""
    truth = baseline.argmax(1) if labels is None else labels
    before, after = (measures.top_k_hits(answers, truth, 1).astype(np.int8) for answers in (baseline, result))
    return Judgement(
        drop_pp=100.0 * float(np.mean(before - after)),
        losses=before - after,
        agreement=measures.agreement(baseline, result),
        kl=measures.kl(baseline, result),
    )


def accuracy(
    baseline: Array,
    result: Array,
    labels: Array | None,
    *,
    seed: int,
    budget: Budget,
    other: Evidence | None,
    looks: int = 1,
) -> Accuracy:
    """What the manifest says about accuracy, with bootstrap intervals.

    Args:
        other: a bolder plan on other images, from which it is learnt how readily this model's answers flip.
        looks: how many choices were judged on these images, this one last.
    """
    evidence = judge(baseline, result, labels).evidence
    drop, interval = measures.drop_pp(baseline, result, labels, seed, looks=looks)
    return Accuracy(
        images=len(baseline),
        labelled=labels is not None,
        baseline=measures.score(baseline, labels, seed),
        result=measures.score(result, labels, seed, looks=looks),
        drop_pp=drop,
        drop_ci95_pp=interval,
        agreement=measures.agreement(baseline, result),
        agreement_ci95=mean_ci95(baseline.argmax(1) == result.argmax(1), seed, looks=looks),
        kl=evidence.kl,
        probability_within=budget.probability(evidence, other),
        choices_judged=looks,
    )


def paired(job: Job, result: bytes, folded: bytes, *, effort: float = 1.0) -> tuple[list[LatencyPair], Speedup]:
    """The original file, the result and the folded original interleaved, per batch size.

    Returns:
        The result's pairs with the original, and the folded model's speedup at the first batch size.
    """
    options = job.options
    models: list[Path | bytes] = [job.source.path, result] if result == folded else [job.source.path, result, folded]
    sessions = [open_session(model, provider=options.provider, threads=options.threads) for model in models]
    pairs: list[LatencyPair] = []
    speedups: list[Speedup] = []
    with job.progress.stage("Final gate: paired latency", len(options.batches)) as advance:
        for batch in options.batches:
            # What folding alone does is told at the first batch size only.
            part = sessions[:2] if pairs else sessions
            runners = session_runners(part, random_feeds(sessions[0], batch, options.seed))
            round_ms = 2 * float(paired_latency(runners, pairs=1, seed=options.seed).sum())
            count = int(np.clip(effort * _BUDGET_MS / round_ms, _MIN_PAIRS, effort * _MAX_PAIRS))
            samples = paired_latency(runners, pairs=count, seed=options.seed)
            speedup = paired_ratio_ci95(samples[:, 0], samples[:, 1], options.seed)
            speedups.append(paired_ratio_ci95(samples[:, 0], samples[:, -1], options.seed))
            pairs.append(
                LatencyPair(
                    batch=batch,
                    threads=options.threads,
                    baseline_ms=samples[:, 0].tolist(),
                    result_ms=samples[:, 1].tolist(),
                    ratio=speedup.ratio,
                    ci95=speedup.ci95,
                )
            )
            advance(1)
    return pairs, speedups[0]


def batch_cost(job: Job, model: bytes) -> BatchCost:
    """Fit latency_ms ≈ alpha + beta · batch by least squares, neither below zero."""
    options = job.options
    session = open_session(model, provider=options.provider, threads=options.threads)
    batches = _COST_BATCHES if fixed_batch(session) is None else (1,)
    runners = [session_runners([session], random_feeds(session, batch, options.seed))[0] for batch in batches]
    medians = np.median(paired_latency(runners, pairs=5, seed=options.seed), axis=0)
    # Relative errors are what counts, so that the small batches weigh as much as the large ones.
    design = np.stack([np.ones(len(batches)), np.asarray(batches, float)], axis=1) / medians[:, None]
    alpha, beta = nnls(design, np.ones(len(batches)))[0]
    return BatchCost(alpha_ms=float(alpha), beta_ms=float(beta), batches=list(batches), latency_ms=medians.tolist())
