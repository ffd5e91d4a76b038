"""The core that a worker leaves to who is woken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ranksmith.serve.worker.core import Core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone is told where to run what")

CORES = os.sched_getaffinity(0) if sys.platform == "linux" else set()


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_where_all_cores_are_busy_the_one_that_is_left_is_taken(tmp_path: Path, sleeper: int) -> None:
    seen = where_it_may_run(core(tmp_path, runnable=len(CORES)), sleeper)
    assert len(seen) == 1
    assert seen <= CORES
    assert os.sched_getaffinity(sleeper) == CORES


@pytest.mark.skipif(len(CORES) < 2, reason="with one core there is nothing to choose")
def test_where_a_core_is_idle_it_may_be_any(tmp_path: Path, sleeper: int) -> None:
    assert where_it_may_run(core(tmp_path, runnable=1), sleeper) == CORES


def test_what_goes_wrong_while_it_wakes_leaves_it_free(tmp_path: Path, sleeper: int) -> None:
    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        core(tmp_path, runnable=len(CORES)).leave_to(sleeper, fail)
    assert os.sched_getaffinity(sleeper) == CORES


@pytest.mark.parametrize("pid", [0, 2**22])
def test_a_process_that_is_not_known_or_gone_does_no_harm(tmp_path: Path, pid: int) -> None:
    woken: list[int] = []
    core(tmp_path, runnable=len(CORES)).leave_to(pid, lambda: woken.append(pid))
    assert woken == [pid]
    assert os.sched_getaffinity(0) == CORES


def test_without_the_kernels_word_nothing_is_moved(tmp_path: Path, sleeper: int) -> None:
    assert where_it_may_run(Core(tmp_path / "nothing"), sleeper) == CORES


def test_the_kernels_word_can_be_read() -> None:
    woken: list[None] = []
    Core().leave_to(os.getpid(), lambda: woken.append(None))
    assert len(woken) == 1


def core(folder: Path, runnable: int) -> Core:
    (folder / "load").write_text(f"0.31 0.52 0.40 {runnable}/212 4711\n")
    return Core(folder / "load")


def where_it_may_run(left: Core, pid: int) -> set[int]:
    seen: list[set[int]] = []
    left.leave_to(pid, lambda: seen.append(os.sched_getaffinity(pid)))
    (only,) = seen
    return only
