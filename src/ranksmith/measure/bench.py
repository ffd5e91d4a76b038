"""`bench`: paired, interleaved latency of several models, the first of them the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ranksmith.measure.bootstrap import paired_ratio_ci95
from ranksmith.measure.latency import paired_latency, random_feeds, summarize
from ranksmith.progress import Progress, Silent
from ranksmith.results import Bench, BenchEntry
from ranksmith.runtime.machine import machine
from ranksmith.runtime.session import Session, default_threads, open_session

__all__ = ["bench"]

MakeFeeds = Callable[[Session, int, int], dict[str, NDArray[Any]]]


def bench(
    models: Sequence[tuple[str, Path | bytes]],
    *,
    batches: Sequence[int] = (1,),
    provider: str = "cpu",
    threads: int | None = None,
    pairs: int = 50,
    seed: int = 0,
    make_feeds: MakeFeeds = random_feeds,
    progress: Progress | None = None,
) -> Bench:
    """Time `models` (name, file or bytes) at each batch size.

    Args:
        pairs: how many rounds the ratios are the median of.
        make_feeds: inputs for (session, batch, seed); random ones of the model's shapes by default.

    Raises:
        ProviderError: the provider is not installed.
        ModelError: a model cannot be loaded or run at one of the batch sizes.
    """
    progress = progress or Silent()
    sessions = [open_session(model, provider=provider, threads=threads) for _, model in models]
    entries: list[BenchEntry] = []
    for batch in batches:
        runners = [_runner(session, make_feeds(session, batch, seed)) for session in sessions]
        with progress.stage(f"timing, batch {batch}", pairs) as advance:
            samples = paired_latency(runners, pairs=pairs, seed=seed, advance=advance)
        for column, (name, _) in enumerate(models):
            latency = summarize(samples[:, column])
            entries.append(
                BenchEntry(
                    model=name,
                    batch=batch,
                    latency_ms=latency,
                    throughput=batch / (latency.p50 / 1e3),
                    speedup=paired_ratio_ci95(samples[:, 0], samples[:, column], seed),
                    samples=len(samples),
                )
            )
    return Bench(
        provider=provider,
        threads=threads or default_threads(),
        seed=seed,
        results=entries,
        machine=machine(),
    )


def _runner(session: Session, feeds: dict[str, NDArray[Any]]) -> Callable[[], object]:
    return lambda: session.run(feeds)
