"""The result on the other providers that are installed: another provider can beat another rank."""

from __future__ import annotations

import numpy as np

from ranksmith.errors import RanksmithError
from ranksmith.measure.bootstrap import paired_ratio_ci95
from ranksmith.measure.latency import paired_latency, random_feeds, session_runners
from ranksmith.results import Precision, ProviderLatency
from ranksmith.runtime.session import PROVIDERS, Session, open_session
from ranksmith.workflow.compress.job import Job

__all__ = ["elsewhere"]

_ROUNDS = 7


def elsewhere(job: Job, result: bytes, precision: Precision) -> list[ProviderLatency]:
    """The original and the result on every other provider, beside the original on the one compressed for.

    A provider that is not installed, or cannot run one of the two, is left out.
    """
    options = job.options
    reference = open_session(job.source.path, provider=options.provider, threads=options.threads)
    feeds = random_feeds(reference, options.batches[0], options.seed)
    found = []
    others = [name for name in PROVIDERS if name != options.provider]
    with job.progress.stage("On other providers", len(others)) as advance:
        for name in others:
            sessions = _sessions(job, result, name)
            if sessions is not None:
                runners = session_runners((reference, *sessions), feeds)
                samples = paired_latency(runners, pairs=_ROUNDS, seed=options.seed)
                speedup = paired_ratio_ci95(samples[:, 0], samples[:, 2], options.seed)
                medians = np.median(samples, axis=0)
                found.append(
                    ProviderLatency(
                        provider=name,
                        precision=precision,
                        baseline_ms=float(medians[1]),
                        result_ms=float(medians[2]),
                        ratio=speedup.ratio,
                        ci95=speedup.ci95,
                    )
                )
            advance(1)
    return found


def _sessions(job: Job, result: bytes, provider: str) -> tuple[Session, Session] | None:
    try:
        original = open_session(job.source.path, provider=provider, threads=job.options.threads)
        return original, open_session(result, provider=provider, threads=job.options.threads)
    except RanksmithError:
        return None
