"""A server's processes: started, looked at through /proc, and ended with everything that they started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["ENOUGH_IDLE", "Processes", "idle_share", "running"]

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_END_S = 10.0
# A machine on which something else runs measures that, too.
ENOUGH_IDLE = 0.95


class Processes:
    """A process and its descendants.

    Attributes:
        log: what they wrote.
    """

    def __init__(self, root: subprocess.Popen[bytes], log: Path) -> None:
        self.root, self.log = root, log

    def all(self) -> list[int]:
        """Process ids, the root first."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (found := _stat(int(entry.name))):
                children.setdefault(int(found[1]), []).append(int(entry.name))
        reached = [self.root.pid]
        for pid in reached:
            reached += children.get(pid, [])
        return reached

    def cpu_s(self) -> dict[str, float]:
        """User and system time so far, by role."""
        times: dict[str, float] = {}
        for pid in self.all():
            if found := _stat(pid):
                role = _role(pid)
                times[role] = times.get(role, 0.0) + (int(found[11]) + int(found[12])) / _TICKS
        return times

    def rss_bytes(self, members: Sequence[int] | None = None) -> dict[str, int]:
        """Memory in RAM, by role; what processes share counts for each.

        Args:
            members: what `all` found before, as it takes a while to look.
        """
        sizes: dict[str, int] = {}
        for pid in members or self.all():
            with contextlib.suppress(OSError, IndexError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                sizes[_role(pid)] = sizes.get(_role(pid), 0) + pages * _PAGE
        return sizes

    def with_model(self) -> list[int]:
        """Those that have loaded onnxruntime: what a crash of the model would take along."""
        found = []
        for pid in self.all():
            with contextlib.suppress(OSError):
                if "onnxruntime_pybind11_state" in Path(f"/proc/{pid}/maps").read_text():
                    found.append(pid)
        return found

    def is_alive(self) -> bool:
        return self.root.poll() is None

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def stand_still(self) -> None:
        """Until its turn: a server that waits for that takes nothing from the one whose turn it is."""
        _signal(self.all(), signal.SIGSTOP)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """They go on, and stand still again afterwards."""
        self._go_on()
        yield
        self.stand_still()

    def _go_on(self) -> None:
        _signal(self.all(), signal.SIGCONT)

    def end(self) -> None:
        """SIGTERM, then SIGKILL to all that are left."""
        # What stands still would not hear of its end.
        self._go_on()
        # A number can be another process's by then; a descriptor cannot.
        everyone = []
        for pid in self.all():
            with contextlib.suppress(ProcessLookupError):
                everyone.append(os.pidfd_open(pid))
        self.root.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.root.wait(_END_S)
        for each in everyone:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(each, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.root.pid, signal.SIGKILL)
        self.root.wait()
        for each in everyone:
            # Readable once the process has ended: the next server is to have the cores for itself.
            ended = select.poll()
            ended.register(each, select.POLLIN)
            ended.poll(1e3 * _END_S)
            os.close(each)


def idle_share(seconds: float) -> float:
    """Of all cores' time, what nobody uses."""
    before = _core_ticks()
    time.sleep(seconds)
    spent = [after - earlier for after, earlier in zip(_core_ticks(), before, strict=True)]
    # User, nice, system, idle, and the time that idle waits for a disk.
    return (spent[3] + spent[4]) / max(1, sum(spent))


def _core_ticks() -> list[int]:
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on: [1] is the parent, [11] and [12] are ticks of user and system."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def _role(pid: int) -> str:
    """What a process of ranksmith calls itself; the others have no such titles."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return "gone"
    for role in ("supervisor", "frontend", "worker"):
        if title.startswith(f"ranksmith {role}"):
            return role
    return "server"


@contextlib.contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[Processes]:
    """`command` in a session of its own, with `folder` as its working directory; ended with all that it started."""
    log = folder / "log.txt"
    with log.open("wb") as written:
        root = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = Processes(root, log)
    try:
        yield started
    finally:
        started.end()
