"""A server as a user starts it: its own processes, a real port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

__all__ = ["Server", "serving"]

_START_S = 60.0


@dataclass(eq=False)
class Server:
    """A running `ranksmith serve`.

    Attributes:
        events: what it logged, in order.
    """

    process: subprocess.Popen[str]
    events: list[dict[str, object]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        """Gather the log until the process ends; runs in a thread of its own."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip())
                with contextlib.suppress(json.JSONDecodeError):
                    self.events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, event: str, *, times: int = 1) -> dict[str, object]:
        """The log entry of that name, once there have been so many of them."""
        limit = time.monotonic() + _START_S
        with self._news:
            while True:
                found = [entry for entry in self.events if entry.get("event") == event]
                if len(found) >= times:
                    return found[-1]
                left = limit - time.monotonic()
                assert left > 0, f"no {event!r} in:\n" + "\n".join(self.lines)
                assert self.process.poll() is None, "it has ended:\n" + "\n".join(self.lines)
                self._news.wait(min(left, 0.2))

    def until(self, told: Callable[[], bool]) -> None:
        """Ask again and again, until it is so: what one process was told may reach another a moment later."""
        limit = time.monotonic() + _START_S
        while not told():
            assert time.monotonic() < limit
            assert self.process.poll() is None, "it has ended:\n" + "\n".join(self.lines)

    @property
    def url(self) -> str:
        return str(self.wait_for("serving")["http"])

    @property
    def grpc_address(self) -> str:
        return str(self.wait_for("serving")["grpc"])

    def children(self, what: str) -> list[int]:
        """Process ids of the server's workers or front ends."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"PPid:\t{self.process.pid}\n" in (entry / "status").read_text():
                    title = (entry / "cmdline").read_bytes().decode(errors="replace")
                    if title.startswith(f"ranksmith {what}"):
                        found.append(int(entry.name))
        return sorted(found)

    def kill(self, what: str) -> None:
        for pid in self.children(what):
            os.kill(pid, signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_START_S)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)


@contextlib.contextmanager
def serving(*arguments: str, environment: dict[str, str] | None = None, ready: bool = True) -> Iterator[Server]:
    """`ranksmith serve ARGUMENTS… --http-port 0`; killed at the end, if it is still there."""
    ports = ["--http-port", "0", "--grpc-port", "0"]
    command: Sequence[str] = [sys.executable, "-m", "ranksmith", "serve", *arguments, *ports]
    if "--state-dir" not in arguments:
        with (
            tempfile.TemporaryDirectory() as state,
            serving(*arguments, "--state-dir", state, environment=environment, ready=ready) as server,
        ):
            yield server
        return
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ | (environment or {})
    ) as process:
        server = Server(process)
        reader = threading.Thread(target=server.read)
        reader.start()
        try:
            if ready:
                server.wait_for("serving")
            yield server
        finally:
            if process.poll() is None:
                server.terminate()
            reader.join()
