"""The demo model and its compressed bundle take turns under load, by `ranksmith deploy` and `rollback`.

Only ours: what the peers have in place of it is a restart, or a reload of the same name from the same folder.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.serving.bench import Bench, wait_for
from benchmarks.serving.load import open_loop
from benchmarks.serving.questions import ask_in_process
from benchmarks.serving.servers import OURS, Layout, Running
from benchmarks.serving.tally import Outcome
from ranksmith.workflow.source import resolve

__all__ = ["EVERY_S", "RATE", "run"]

RATE = 100.0
EVERY_S = 6.0
LAYOUT = Layout(1, 2)
QUICK_SWAPS = 2


def run(bench: Bench) -> dict[str, Any]:
    source = resolve("demo")
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        bench.say("ranksmith compress demo")
        _ranksmith("compress", "demo", "--output", str(bundle))
        either = ask_in_process(source.path, bundle / "model.onnx")
        demo = replace(bench, model=source.path, name=source.name, questions=either)
        seconds = EVERY_S * ((QUICK_SWAPS if bench.is_quick else bench.swaps) + 0.5)
        with demo.serving(OURS, LAYOUT) as running:
            quiet = wait_for(open_loop(running.target, rate=RATE, seconds=seconds))
            swapped, swaps = wait_for(_swapping(running, bundle, seconds))
    bench.say(f"{len(swaps)} swaps, failed: {swapped.failed or 0}, {swapped.wrong} wrong")
    return {"rate": RATE, "layout": str(LAYOUT), "quiet": asdict(quiet), "swapped": asdict(swapped), "swaps": swaps}


async def _swapping(running: Running, bundle: Path, seconds: float) -> tuple[Outcome, list[dict[str, Any]]]:
    """The outcome, and of each swap how long it took and the memory of all processes after it."""
    load = asyncio.ensure_future(open_loop(running.target, rate=RATE, seconds=seconds))
    state = ["--state-dir", str(running.setup.folder / "state")]
    swaps: list[dict[str, Any]] = []
    until = time.perf_counter() + seconds - EVERY_S
    while (start := time.perf_counter()) < until:
        verb = ["rollback"] if len(swaps) % 2 else ["deploy", str(bundle)]
        await asyncio.to_thread(_ranksmith, *verb, *state)
        took_s = time.perf_counter() - start
        await asyncio.sleep(max(0.0, EVERY_S - took_s))
        memory = await asyncio.to_thread(running.processes.rss_bytes)
        swaps.append({"verb": verb[0], "took_s": took_s, "rss_bytes": sum(memory.values())})
    return await load, swaps


def _ranksmith(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ranksmith", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ranksmith {arguments[0]}: {done.stderr}")
