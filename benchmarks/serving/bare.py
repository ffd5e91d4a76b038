"""The limit: what onnxruntime alone reaches on all cores, at the best of its settings."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Bare", "Setting", "bare_loop", "bare_loops"]

_PROGRAM = Path(__file__).with_name("bare_process.py")
_BATCHES = (1, 4, 8, 16)


@dataclass(frozen=True)
class Setting:
    processes: int
    threads: int
    batch: int
    is_spinning: bool = False

    def __str__(self) -> str:
        spinning = ", spinning" if self.is_spinning else ""
        return f"{self.processes} × {self.threads} threads, batch {self.batch}{spinning}"


SETTINGS = tuple(
    Setting(processes, threads, batch, is_spinning)
    # A single thread has no pool that could spin.
    for processes, threads, is_spinning in ((2, 1, False), (1, 2, False), (1, 2, True))
    for batch in _BATCHES
)


@dataclass(frozen=True)
class Bare:
    """Processes that wait to run for a while.

    Attributes:
        settings: of the fastest loop, and of the one that answers a single row first.
    """

    best: Setting
    quickest: Setting
    _loops: dict[Setting, list[subprocess.Popen[str]]]

    def per_second(self, seconds: float) -> float:
        """Rows."""
        return _run(self._loops[self.best], seconds)[0]

    def latency_ms(self, seconds: float) -> float:
        """Median of a single row."""
        return _run(self._loops[self.quickest], seconds)[1]


@contextlib.contextmanager
def bare_loops(model: Path, trial_s: float) -> Iterator[Bare]:
    """The best of all settings, each tried for `trial_s`."""
    speeds, latencies = {}, {}
    for setting in SETTINGS:
        with _loops(model, setting) as loops:
            speeds[setting], latencies[setting] = _run(loops, trial_s)
    best = max(speeds, key=lambda setting: speeds[setting])
    alone = [setting for setting in SETTINGS if setting.processes == setting.batch == 1]
    quickest = min(alone, key=lambda setting: latencies[setting])
    with contextlib.ExitStack() as stack:
        kept = {setting: stack.enter_context(_loops(model, setting)) for setting in {best, quickest}}
        yield Bare(best, quickest, kept)


@contextlib.contextmanager
def bare_loop(model: Path, setting: Setting) -> Iterator[Bare]:
    """Of this setting, whether or not another is better."""
    with _loops(model, setting) as loops:
        yield Bare(setting, setting, {setting: loops})


@contextlib.contextmanager
def _loops(model: Path, setting: Setting) -> Iterator[list[subprocess.Popen[str]]]:
    given = (_PROGRAM, model, setting.threads, setting.batch, int(setting.is_spinning))
    command = [sys.executable, *map(str, given)]
    with contextlib.ExitStack() as stack:
        loops = []
        for _ in range(setting.processes):
            loop = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(_end, loop)
            loops.append(loop)
        for loop in loops:
            if _line(loop) != "ready\n":
                raise RuntimeError(f"{model}: the bare loop does not start")
        yield loops


def _end(loop: subprocess.Popen[str]) -> None:
    """It ends with its input."""
    loop.communicate()


def _run(loops: list[subprocess.Popen[str]], seconds: float) -> tuple[float, float]:
    """Rows per second of all together, and the median time of a batch."""
    for loop in loops:
        assert loop.stdin is not None
        loop.stdin.write(f"{seconds}\n")
        loop.stdin.flush()
    told = [json.loads(_line(loop)) for loop in loops]
    return sum(each["per_second"] for each in told), max(each["p50_ms"] for each in told)


def _line(loop: subprocess.Popen[str]) -> str:
    assert loop.stdout is not None
    return loop.stdout.readline()
