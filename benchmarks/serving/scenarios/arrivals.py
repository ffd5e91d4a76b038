"""Poisson arrivals: how long a server's slowest answers take at a part of its capacity, and ours at the same rate.

A share of one's own capacity makes a faster server answer more. So ours is asked once more at each peer's rate, right
after it and with the same arrivals: that is what one would see who put ours in its place.

A core of a virtual machine may be half as fast for a while, without a word of it: no time is stolen. A request then
takes up to twice its CPU, so that is noted beside each p99.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.serving.bench import Bench, costed, wait_for
from benchmarks.serving.load import open_loop
from benchmarks.serving.servers import OURS, SERVERS, Running

__all__ = ["LOAD", "TIMES", "run"]

# Of the capacity, which is what a closed loop of the most clients has just had.
LOAD = 0.7
# Of a measurement's seconds: enough requests for a p99.
TIMES = 3


def run(bench: Bench) -> dict[str, Any]:
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in bench.servers}
    with bench.all_up() as started:
        for number, name in bench.turns(started):
            turn = _turn(bench, started[name], seed=number)
            if name != OURS and OURS in started:
                turn["ours"] = _arrivals(bench, started[OURS], turn["rate"], seed=number)
            turns[name].append(turn)
            p99 = [f"{who} {turn[who]['latency']['p99_ms']:.1f} ms" for who in ("own", "ours") if who in turn]
            bench.say(f"{SERVERS[name].title}: {turn['rate']:,.1f}/s, p99: {', '.join(p99)}")
    return {
        "layouts": {name: str(bench.layouts[name]) for name in turns if turns[name]},
        "turns": {name: each for name, each in turns.items() if each},
    }


def _turn(bench: Bench, running: Running, seed: int) -> dict[str, Any]:
    with running.processes.turn():
        bench.load(running, seconds=bench.warm_s)
        rate = LOAD * bench.load(running).per_second
    return {"rate": rate, "own": _arrivals(bench, running, rate, seed)}


def _arrivals(bench: Bench, running: Running, rate: float, seed: int) -> dict[str, Any]:
    with running.processes.turn():
        bench.load(running, seconds=bench.warm_s)
        loop = open_loop(running.target, rate=rate, seconds=TIMES * bench.seconds, seed=seed)
        outcome, cost = costed(running, lambda: wait_for(loop))
        return asdict(outcome) | {"cpu_ms": cost}
