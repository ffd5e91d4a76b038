"""One client: what a server adds to a request that has all cores to itself.

One worker with a thread for each core, and the bare loop with as many, take turns of a second, and each of the server's
stands between two of the loop's: a machine that is slower for a while is so for both.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.serving.bare import Setting, bare_loop
from benchmarks.serving.bench import Bench
from benchmarks.serving.servers import Layout

__all__ = ["LAYOUT", "run"]

LAYOUT = Layout(1, 2)
TURNS_A_ROUND = 10
TURN_S = 1.0


def run(bench: Bench) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in bench.working:
        with (
            bench.skipping(name),
            bare_loop(bench.model, Setting(1, LAYOUT.threads, 1)) as bare,
            bench.serving(name, LAYOUT) as running,
        ):
            turns = []
            before_ms = bare.latency_ms(TURN_S)
            for _ in range(bench.rounds * TURNS_A_ROUND):
                outcome = bench.load(running, clients=1, seconds=TURN_S)
                after_ms = bare.latency_ms(TURN_S)
                turns.append(asdict(outcome) | {"bare_latency_ms": (before_ms + after_ms) / 2})
                before_ms = after_ms
            told[name] = turns
    return told
