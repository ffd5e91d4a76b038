"""kill -9 of a process that runs the model, again and again, under a light load: what the clients see of it."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import asdict
from typing import Any

from benchmarks.serving.bench import Bench, wait_for
from benchmarks.serving.load import open_loop
from benchmarks.serving.servers import SERVERS, Running
from benchmarks.serving.tally import Outcome

__all__ = ["EVERY_S", "MOST_LOAD", "RATE", "run"]

RATE = 100.0
EVERY_S = 5.0
# Of the capacity, where the model is too slow for the rate.
MOST_LOAD = 0.3
FULL_KILLS, QUICK_KILLS = 5, 2


def run(bench: Bench) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in bench.working:
        for layout in SERVERS[name].layouts:
            with bench.skipping(name), bench.serving(name, layout) as running:
                told.setdefault(name, {})[str(layout)] = found = _measure(bench, running)
                bench.say(
                    f"{SERVERS[name].title}, {layout}: {found['kills']} kills, failed: "
                    f"{found['killed']['failed'] or 0}, answers after: {found['is_answering']}"
                )
    return told


def _measure(bench: Bench, running: Running) -> dict[str, Any]:
    rate = min(RATE, MOST_LOAD * bench.load(running).per_second)
    kills = QUICK_KILLS if bench.is_quick else FULL_KILLS
    seconds = EVERY_S * (kills + 1)
    quiet = wait_for(open_loop(running.target, rate=rate, seconds=seconds))
    killed, times = wait_for(_killing(running, rate, seconds, kills))
    return {
        "rate": rate,
        "kills": times,
        "quiet": asdict(quiet),
        "killed": asdict(killed),
        "is_answering": running.answers(),
    }


async def _killing(running: Running, rate: float, seconds: float, kills: int) -> tuple[Outcome, int]:
    """The outcome, and how many there were to kill."""

    async def kill() -> int:
        times = 0
        for _ in range(kills):
            await asyncio.sleep(EVERY_S)
            # In a thread, as it reads a good deal of /proc.
            if found := await asyncio.to_thread(running.processes.with_model):
                os.kill(found[0], signal.SIGKILL)
                times += 1
        return times

    outcome, times = await asyncio.gather(open_loop(running.target, rate=rate, seconds=seconds), kill())
    return outcome, times
