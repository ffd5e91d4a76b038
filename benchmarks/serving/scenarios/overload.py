"""Three times as many requests as can be answered: what still gets an answer, and how fast the rest is told so.

Ours is asked twice: with its own deadline, ten seconds, and with one second as a parameter of the requests, as a client
would ask who has something better to do. The peers have no deadlines to give.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

from benchmarks.serving.bench import Bench, wait_for
from benchmarks.serving.load import Target, open_loop
from benchmarks.serving.servers import SERVERS, Running, binary_tensors
from benchmarks.serving.tally import Outcome

__all__ = ["TIMES", "run"]

TIMES = 3.0
FULL_S, QUICK_S = 20.0, 4.0
DEADLINE_S = 1.0
_SAMPLE_S = 0.25


def run(bench: Bench) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in bench.working:
        with bench.skipping(name), bench.serving(name) as running:
            capacity = bench.load(running).per_second
            told[name] = {what: _measure(bench, running, target, capacity) for what, target in _targets(bench, running)}
            for what, run in told[name].items():
                bench.say(
                    f"{SERVERS[name].title} {what}: goodput {run['goodput']:.3f} of {capacity:,.1f}/s, "
                    f"{run['refused']} refused in {run['refusal']['p50_ms']:.1f} ms, failed: {run['failed'] or 0}"
                )
    return told


def _targets(bench: Bench, running: Running) -> list[tuple[str, Target]]:
    if running.server.is_peer:
        return [("", running.target)]
    requests = [binary_tensors(bench.name, bench.questions, row, DEADLINE_S) for row in bench.questions.inputs]
    return [("", running.target), (f"deadline {DEADLINE_S:g} s", replace(running.target, requests=requests))]


def _measure(bench: Bench, running: Running, target: Target, capacity: float) -> dict[str, Any]:
    quiet = running.processes.rss_bytes()
    outcome, peak = wait_for(_overloaded(running, target, TIMES * capacity, QUICK_S if bench.is_quick else FULL_S))
    return asdict(outcome) | {
        "capacity": capacity,
        "goodput": outcome.goodput / capacity,
        "rss_bytes": quiet,
        "peak_rss_bytes": peak,
        "layout": str(running.setup.layout),
    }


async def _overloaded(running: Running, target: Target, rate: float, seconds: float) -> tuple[Outcome, dict[str, int]]:
    """The outcome, and the most memory that each role had."""
    peak: dict[str, int] = {}
    members = running.processes.all()

    async def sample() -> None:
        while True:
            for role, size in running.processes.rss_bytes(members).items():
                peak[role] = max(size, peak.get(role, 0))
            await asyncio.sleep(_SAMPLE_S)

    sampling = asyncio.ensure_future(sample())
    try:
        return await open_loop(target, rate=rate, seconds=seconds), peak
    finally:
        sampling.cancel()
