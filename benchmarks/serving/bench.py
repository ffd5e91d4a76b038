"""What all scenarios share: the model, the servers that are asked for, how long, and how servers are started."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from rich.console import Console

from benchmarks.serving.load import closed_loop
from benchmarks.serving.questions import Questions
from benchmarks.serving.servers import SERVERS, Layout, Running, StartError, serving
from benchmarks.serving.tally import Outcome

__all__ = ["Bench", "costed", "wait_for"]

ResultT = TypeVar("ResultT")

_LARGE_BYTES = 256 * 1024
# Of each layout; an even number. Two left mosec with the one that is 5 % slower, once.
_TRIALS = 4


def wait_for(running: Awaitable[ResultT]) -> ResultT:
    """On an event loop of its own, uvloop's."""

    async def main() -> ResultT:
        return await running

    return uvloop.run(main())


def costed(running: Running, load: Callable[[], Outcome]) -> tuple[Outcome, dict[str, float]]:
    """The outcome, and the CPU that each role took per request."""
    before = running.processes.cpu_s()
    outcome = load()
    after = running.processes.cpu_s()
    return outcome, {role: 1e3 * (after[role] - before.get(role, 0.0)) / max(1, outcome.sent) for role in after}


@dataclass
class Bench:
    """
    Attributes:
        servers: names in `SERVERS`.
        seconds: of one measurement; a warm-up is a part of that.
        python: the interpreter of each server.
        layouts: of the servers, the one that was faster.
        broken: servers that did not start, and why.
    """

    model: Path
    name: str
    questions: Questions
    servers: list[str]
    rounds: int
    seconds: float
    is_quick: bool
    swaps: int
    python: dict[str, str]
    console: Console
    layouts: dict[str, Layout] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def clients(self) -> tuple[int, ...]:
        """Of the closed loops; that many large inputs would be of no use to anybody."""
        return (1, 8) if self.questions.input_bytes > _LARGE_BYTES else (1, 8, 32)

    @property
    def warm_s(self) -> float:
        return self.seconds / 4

    @property
    def working(self) -> list[str]:
        return [name for name in self.servers if name not in self.broken]

    @contextlib.contextmanager
    def serving(self, name: str, layout: Layout | None = None) -> Iterator[Running]:
        """The server `name`, warm.

        Args:
            layout: the better one, if None.

        Raises:
            StartError: it does not answer.
        """
        with serving(
            SERVERS[name],
            self.model,
            self.name,
            layout or self.better_layout(name),
            self.python[name],
            self.questions,
        ) as running:
            self.load(running, seconds=self.warm_s)
            yield running

    @contextlib.contextmanager
    def all_up(self) -> Iterator[dict[str, Running]]:
        """All servers that work, each in its better layout and standing still until its turn.

        Turns can be short and many then, and what slows the machine for a minute slows all.
        """
        for name in self.working:
            with self.skipping(name):
                self.better_layout(name)
        with contextlib.ExitStack() as stack:
            started: dict[str, Running] = {}
            for name in self.working:
                with self.skipping(name):
                    started[name] = stack.enter_context(self.serving(name))
                    started[name].processes.stand_still()
            yield started

    def turns(self, names: Iterable[str]) -> Iterator[tuple[int, str]]:
        """The number of the round, and whose turn it is; nobody is always the first."""
        order = list(names)
        for number in range(self.rounds):
            yield from ((number, name) for name in order)
            order = order[1:] + order[:1]

    def load(self, running: Running, *, clients: int | None = None, seconds: float | None = None) -> Outcome:
        """A closed loop, of the most clients if none are given."""
        return wait_for(
            closed_loop(running.target, clients=clients or max(self.clients), seconds=seconds or self.seconds)
        )

    def better_layout(self, name: str) -> Layout:
        """Of the server's layouts, the one with which it answers more of the most clients, in `_TRIALS` of each."""
        layouts = SERVERS[name].layouts
        if name not in self.layouts:
            self.layouts[name] = self._tried(name, layouts) if len(layouts) > 1 else layouts[0]
        return self.layouts[name]

    def _tried(self, name: str, layouts: tuple[Layout, ...]) -> Layout:
        speeds = dict.fromkeys(layouts, 0.0)
        for layout in (*layouts, *reversed(layouts)) * (_TRIALS // 2):
            self.say(f"{SERVERS[name].title}: {layout}")
            with self.serving(name, layout) as running:
                speeds[layout] += self.load(running).per_second / _TRIALS
        told = ", ".join(f"{layout} {speed:,.1f}/s" for layout, speed in speeds.items())
        self.say(f"{SERVERS[name].title}: {told}")
        return max(speeds, key=lambda layout: speeds[layout])

    @contextlib.contextmanager
    def skipping(self, name: str) -> Iterator[None]:
        """A server that does not start is left out from then on, and said so at the end."""
        try:
            yield
        except StartError as error:
            self.broken[name] = str(error)
            self.say(f"[red]{error}[/red]")

    def say(self, what: Any) -> None:
        self.console.print(what)
