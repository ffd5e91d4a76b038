"""The load: N clients that ask again once they are answered, or arrivals that come whatever the server does.

The latency of an open loop counts from when a request was due, not from when it was sent: a server, or a client, that
falls behind cannot hide it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from benchmarks.serving.questions import Judge
from benchmarks.serving.tally import Outcome, Tally
from benchmarks.serving.timer import Timer
from benchmarks.serving.wire import Address, Connection, Reply, connect

__all__ = ["Target", "closed_loop", "open_loop"]

_GRACE_S = 15.0
_AGAIN_S = 0.05
_MOST_CONNECTIONS = 4000
# Servers close what is idle, uvicorn after 5 s; no request should meet that.
_IDLE_S = 3.0
_NO_ANSWER = f"no answer {_GRACE_S:g} s after the end"
_NO_CONNECTION = "no connection"


@dataclass(frozen=True)
class Target:
    """
    Attributes:
        requests: as they go out; request i asks question i.
    """

    address: Address
    requests: list[bytes]
    judge: Judge


async def closed_loop(target: Target, *, clients: int, seconds: float) -> Outcome:
    """Each of `clients` asks again as soon as it is answered."""
    return await _Closed(target, seconds).run(clients)


async def open_loop(target: Target, *, rate: float, seconds: float, seed: int = 0) -> Outcome:
    """Poisson arrivals, `rate` a second on average; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    # More than will be needed but for one seed in millions of millions.
    gaps = rng.exponential(1 / rate, round(rate * seconds + 10 * (rate * seconds) ** 0.5 + 10))
    due = np.cumsum(gaps)
    return await _Open(target, seconds).run(due[due < seconds].tolist())


class _Closed:
    def __init__(self, target: Target, seconds: float) -> None:
        self._target = target
        self._tally = Tally(target.judge, seconds)
        self._questions = itertools.cycle(range(len(target.requests)))
        self._waiting: dict[Connection, asyncio.Event] = {}

    async def run(self, clients: int) -> Outcome:
        self._tally.begin()
        running = [asyncio.ensure_future(self._client()) for _ in range(clients)]
        await asyncio.wait(running, timeout=self._tally.seconds + _GRACE_S)
        for connection in list(self._waiting):
            connection.give_up(_NO_ANSWER)
        await asyncio.gather(*running)
        return self._tally.outcome()

    async def _client(self) -> None:
        while not self._tally.is_over():
            try:
                async with asyncio.timeout(_GRACE_S):
                    connection = await connect(self._target.address, self._took)
            except OSError:
                self._tally.took(0, 0.0, _NO_CONNECTION)
                await asyncio.sleep(_AGAIN_S)
                continue
            ended = self._waiting[connection] = asyncio.Event()
            self._ask(connection)
            await ended.wait()

    def _ask(self, connection: Connection) -> None:
        question = next(self._questions)
        connection.ask(self._target.requests[question], question, time.perf_counter())

    def _took(self, connection: Connection, reply: Reply | str) -> None:
        self._tally.took(connection.question, connection.since_s, reply)
        if connection.is_open and not self._tally.is_over():
            self._ask(connection)
        else:
            connection.close()
            self._waiting.pop(connection).set()


class _Open:
    def __init__(self, target: Target, seconds: float) -> None:
        self._target = target
        self._tally = Tally(target.judge, seconds)
        self._questions = itertools.cycle(range(len(target.requests)))
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        # Due, but every connection that may be is busy.
        self._late: deque[float] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def run(self, due: list[float]) -> Outcome:
        """
        Args:
            due: in order, seconds from the start.
        """
        start = self._tally.begin()
        self._due = deque(start + moment for moment in due)
        timer = Timer(self._send_due)
        self._timer = timer
        self._send_due()
        try:
            await asyncio.wait_for(self._over.wait(), self._tally.seconds + _GRACE_S)
        except TimeoutError:
            await self._give_up()
        finally:
            timer.close()
            for connection in self._idle:
                connection.close()
        return self._tally.outcome()

    async def _give_up(self) -> None:
        late, self._late = self._late, deque()
        for moment in late:
            self._tally.took(0, moment, _NO_ANSWER)
        for connection in list(self._busy):
            connection.give_up(_NO_ANSWER)
        connecting = list(self._connecting)
        for each in connecting:
            each.cancel()
        await asyncio.gather(*connecting)

    def _send_due(self) -> None:
        now = time.perf_counter()
        while self._due and self._due[0] <= now:
            self._send(self._due.popleft())
        if self._due:
            self._timer.set(self._due[0])
        else:
            self._look()

    def _send(self, moment: float) -> None:
        """On the connection that was used last, so that those that are too many grow old."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and moment - connection.idle_since_s < _IDLE_S:
                self._ask(connection, moment)
                return
            connection.close()
        if len(self._busy) + len(self._connecting) < _MOST_CONNECTIONS:
            connecting = asyncio.ensure_future(self._connect(moment))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connected)
        else:
            self._late.append(moment)

    async def _connect(self, moment: float) -> None:
        try:
            connection = await connect(self._target.address, self._took)
        except OSError:
            self._tally.took(0, moment, _NO_CONNECTION)
        except asyncio.CancelledError:
            self._tally.took(0, moment, _NO_ANSWER)
        else:
            self._ask(connection, moment)

    def _connected(self, connecting: asyncio.Task[None]) -> None:
        self._connecting.discard(connecting)
        self._look()

    def _ask(self, connection: Connection, moment: float) -> None:
        question = next(self._questions)
        self._busy.add(connection)
        self._tally.asked(moment)
        connection.ask(self._target.requests[question], question, moment)

    def _took(self, connection: Connection, reply: Reply | str) -> None:
        self._tally.took(connection.question, connection.since_s, reply)
        self._busy.discard(connection)
        if self._late:
            moment = self._late.popleft()
            if connection.is_open:
                self._ask(connection, moment)
            else:
                self._send(moment)
        elif connection.is_open:
            connection.idle_since_s = time.perf_counter()
            self._idle.append(connection)
        self._look()

    def _look(self) -> None:
        """Whether everything was sent and came back."""
        if not (self._due or self._busy or self._late or self._connecting):
            self._over.set()
