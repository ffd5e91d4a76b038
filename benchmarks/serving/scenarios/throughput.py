"""Throughput and latency of closed loops, and what a request costs of CPU.

The servers take turns, and each closed loop stands between two runs of the bare loop: a machine that is slower for a
while is slower for both sides of a ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from benchmarks.serving import grpc_load, wire
from benchmarks.serving.bare import Bare, bare_loops
from benchmarks.serving.bench import Bench, costed, wait_for
from benchmarks.serving.load import Target, closed_loop
from benchmarks.serving.questions import Judge
from benchmarks.serving.servers import SERVERS, Running
from benchmarks.serving.tally import Outcome

__all__ = ["run"]

_HEALTH_CLIENTS = 8


def run(bench: Bench) -> dict[str, Any]:
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in bench.servers}
    with bare_loops(bench.model, bench.seconds / 2) as bare, bench.all_up() as started:
        bench.say(f"the bare loop is best with {bare.best}: {bare.per_second(bench.seconds):,.1f} rows/s")
        for _, name in bench.turns(started):
            with started[name].processes.turn():
                turns[name].append(_turn(bench, name, started[name], bare))
            _say(bench, name, turns[name][-1])
        alone = [] if started else [bare.per_second(bench.seconds) for _ in range(bench.rounds)]
        taken = [turn for each in turns.values() for turn in each]
        return {
            "bare": {
                "best": str(bare.best),
                "quickest": str(bare.quickest),
                "per_second": [run["bare_per_second"] for turn in taken for run in turn["closed"].values()] or alone,
                "latency_ms": [turn["bare_latency_ms"] for turn in taken],
            },
            "clients": list(bench.clients),
            "layouts": {name: str(bench.layouts[name]) for name in turns if turns[name]},
            "turns": {name: each for name, each in turns.items() if each},
        }


def _turn(bench: Bench, name: str, running: Running, bare: Bare) -> dict[str, Any]:
    told: dict[str, Any] = {"bare_latency_ms": bare.latency_ms(bench.seconds / 4)}
    bench.load(running, seconds=bench.warm_s)
    told["closed"] = _paired(bench, bare, running, lambda clients: bench.load(running, clients=clients))
    if not SERVERS[name].is_peer:
        told["health"] = _health(bench, running)
        told["grpc"] = _paired(bench, bare, running, partial(_grpc, bench, running))
    return told


def _paired(bench: Bench, bare: Bare, running: Running, load: Callable[[int], Outcome]) -> dict[str, Any]:
    """A closed loop for each number of clients, with what the bare loop did on both sides of it."""
    told = {}
    before = bare.per_second(bench.seconds / 2)
    for clients in bench.clients:
        outcome, cost = costed(running, partial(load, clients))
        after = bare.per_second(bench.seconds / 2)
        told[str(clients)] = asdict(outcome) | {
            "per_second": outcome.per_second,
            "cpu_ms": cost,
            "bare_per_second": (before + after) / 2,
        }
        before = after
    return told


def _health(bench: Bench, running: Running) -> dict[str, Any]:
    """What the least request costs: the HTTP of it, and nothing else."""
    live = wire.request("GET", "/v2/health/live")
    alive = np.ones(1, np.float32)
    judge = Judge([(alive,)], lambda body: alive if b"true" in body else 0 * alive)
    asking = Target(running.target.address, [live], judge)
    loop = closed_loop(asking, clients=_HEALTH_CLIENTS, seconds=bench.seconds / 2)
    outcome, cost = costed(running, lambda: wait_for(loop))
    return asdict(outcome) | {"per_second": outcome.per_second, "cpu_ms": cost, "clients": _HEALTH_CLIENTS}


def _grpc(bench: Bench, running: Running, clients: int) -> Outcome:
    requests = [grpc_load.model_infer(bench.name, bench.questions, row) for row in bench.questions.inputs]
    judge = Judge(bench.questions.expected, lambda body: np.frombuffer(grpc_load.values(body), "<f4"))
    address = f"127.0.0.1:{running.setup.grpc_port}"
    return wait_for(grpc_load.closed_loop(address, requests, judge, clients=clients, seconds=bench.seconds / 2))


def _say(bench: Bench, name: str, turn: dict[str, Any]) -> None:
    speeds = ", ".join(f"{clients}: {each['per_second']:,.1f}/s" for clients, each in turn["closed"].items())
    ratio = max(each["per_second"] / each["bare_per_second"] for each in turn["closed"].values())
    bench.say(f"{SERVERS[name].title}: {speeds}; {ratio:.3f} of the bare loop")
