"""`ranksmith bench`: paired, interleaved latency of several models."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from ranksmith.cli.options import BatchesOption, JsonOption, ProviderOption, SeedOption, ThreadsOption, parse_batches

__all__ = ["bench"]


def bench(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="The first is the reference.", show_default=False)
    ],
    batch: BatchesOption = "1",
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    pairs: Annotated[int, typer.Option("--pairs", metavar="N", min=3, help="Rounds in which all are timed.")] = 50,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Time models side by side, interleaved, and tell how much faster each is than the first.

    The speedup is the median over rounds of the first model's time over this one's, with a bootstrap 95 % interval.
    Rounds in which the machine was disturbed are thrown away.
    """
    from ranksmith.cli.output import make_progress, print_json, show, table
    from ranksmith.measure.bench import bench as measure
    from ranksmith.workflow.source import resolve

    progress = make_progress()
    batches = parse_batches(batch)
    sources = [resolve(model, progress=progress) for model in models]
    times_used = Counter(source.name for source in sources)
    named = [
        (source.name if times_used[source.name] == 1 else text, source.path)
        for text, source in zip(models, sources, strict=True)
    ]
    result = measure(
        named, batches=batches, provider=provider, threads=threads, pairs=pairs, seed=seed, progress=progress
    )
    if as_json:
        print_json(result)
        return
    columns = ("model", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "speedup", "95 % interval")
    rows = []
    for position, entry in enumerate(result.results):
        latency, speedup = entry.latency_ms, entry.speedup
        numbers = (f"{latency.p50:.2f}", f"{latency.p90:.2f}", f"{latency.p99:.2f}", f"{entry.throughput:.1f}")
        reference = position % len(named) == 0
        gained = (
            ("reference", None) if reference else (f"{speedup.ratio:.3f}x", "[{:.3f}, {:.3f}]".format(*speedup.ci95))
        )
        rows.append((entry.model, entry.batch, *numbers, *gained))
    title = f"{result.provider}, {result.threads} threads, {pairs} rounds"
    show(table(columns, rows, title=title, right=columns[1:]))
