"""The final gate: accuracy on images that took part in nothing, and paired latency against the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.measure import accuracy as measures
from ranksmith.measure.bootstrap import mean_ci95, paired_ratio_ci95
from ranksmith.measure.latency import paired_latency, random_feeds
from ranksmith.progress import Progress
from ranksmith.results import Accuracy, BatchCost, LatencyPair
from ranksmith.runtime.session import open_session

__all__ = ["Judgement", "batch_cost", "judge", "paired"]

Array = NDArray[Any]
# A pair of short runs costs little; a pair of long ones says more. Seconds for one batch size.
_BUDGET_S = 12.0
_MIN_PAIRS, _MAX_PAIRS = 15, 60
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


def judge(baseline: Array, result: Array, labels: Array | None) -> Judgement:
    """Compare logits [N, classes] of the original and of a model on the same N images."""
    before, after = baseline.argmax(1), result.argmax(1)
    if labels is None:
        losses = (before != after).astype(np.int8)
    else:
        losses = (before == labels).astype(np.int8) - (after == labels).astype(np.int8)
    return Judgement(
        drop_pp=100.0 * float(losses.mean()),
        losses=losses,
        agreement=measures.agreement(baseline, result),
        kl=measures.kl(baseline, result),
    )


def accuracy(baseline: Array, result: Array, labels: Array | None, *, seed: int, note: str | None) -> Accuracy:
    """What the manifest says about accuracy, with bootstrap intervals."""
    judged = judge(baseline, result, labels)
    same = (baseline.argmax(1) == result.argmax(1)).astype(np.float64)
    low, high = mean_ci95(judged.losses.astype(np.float64), seed)
    return Accuracy(
        images=len(baseline),
        labelled=labels is not None,
        baseline=measures.score(baseline, labels, seed),
        result=measures.score(result, labels, seed),
        drop_pp=judged.drop_pp,
        drop_ci95_pp=(100.0 * low, 100.0 * high),
        agreement=judged.agreement,
        agreement_ci95=mean_ci95(same, seed),
        kl=judged.kl,
        note=note,
    )


def paired(
    baseline: Path | bytes,
    result: Path | bytes,
    *,
    batches: Sequence[int],
    provider: str,
    threads: int,
    seed: int,
    progress: Progress,
    effort: float = 1.0,
) -> list[LatencyPair]:
    """Paired, interleaved latencies of two whole models, per batch size."""
    sessions = [open_session(model, provider=provider, threads=threads) for model in (baseline, result)]
    pairs = []
    with progress.stage("Final gate: paired latency", len(batches)) as advance:
        for batch in batches:
            feeds = random_feeds(sessions[0], batch, seed)
            runners = [lambda session=session: session.run(feeds) for session in sessions]
            one_round_ms = float(np.sum(paired_latency(runners, pairs=2, seed=seed).mean(0)))
            count = int(np.clip(effort * _BUDGET_S * 1000 / one_round_ms, _MIN_PAIRS, effort * _MAX_PAIRS))
            samples = paired_latency(runners, pairs=count, seed=seed)
            speedup = paired_ratio_ci95(samples[:, 0], samples[:, 1], seed)
            pairs.append(
                LatencyPair(
                    batch=batch,
                    threads=threads,
                    baseline_ms=samples[:, 0].tolist(),
                    result_ms=samples[:, 1].tolist(),
                    ratio=speedup.ratio,
                    ci95=speedup.ci95,
                )
            )
            advance(1)
    return pairs


def batch_cost(model: bytes, *, provider: str, threads: int, seed: int) -> BatchCost:
    """Fit latency_ms ≈ alpha + beta · batch by least squares, neither below zero."""
    session = open_session(model, provider=provider, threads=threads)
    feeds = [random_feeds(session, batch, seed) for batch in _COST_BATCHES]
    runners = [lambda given=given: session.run(given) for given in feeds]
    medians = np.median(paired_latency(runners, pairs=7, seed=seed), axis=0)
    # Weighted by 1 / latency, so that the small batches count as much as the large ones.
    design = np.stack([np.ones(len(_COST_BATCHES)), np.asarray(_COST_BATCHES, float)], axis=1) / medians[:, None]
    alpha, beta = np.linalg.lstsq(design, np.ones(len(_COST_BATCHES)), rcond=None)[0]
    return BatchCost(
        alpha_ms=max(0.0, float(alpha)),
        beta_ms=max(0.0, float(beta)),
        batches=list(_COST_BATCHES),
        latency_ms=medians.tolist(),
    )
