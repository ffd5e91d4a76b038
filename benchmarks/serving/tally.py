"""What came of the requests of one run: right answers and their latencies, refusals apart from failures."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from benchmarks.serving.questions import Judge
from benchmarks.serving.wire import Reply

__all__ = ["Outcome", "Spread", "Tally"]

# Too Many Requests and Service Unavailable: the server says that it has too much to do.
_REFUSALS = (429, 503)


@dataclass(frozen=True)
class Spread:
    """Quantiles of a time; all 0 where there is none."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0
    most_ms: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """
    Attributes:
        seconds: for which requests were sent.
        sent: with what became of them: answered + wrong + refused + failed.
        in_time: of the right answers, those that came within the seconds.
        elapsed_s: until the last right answer.
        failed: by reason.
        lag: of an open loop, from when requests were due until they were sent, by a client that is busy or connecting.
        client_cpu_ms: of the load generator, per request.
    """

    seconds: float
    sent: int
    answered: int
    in_time: int
    elapsed_s: float
    wrong: int
    refused: int
    failed: dict[str, int]
    latency: Spread
    refusal: Spread
    lag: Spread
    client_cpu_ms: float

    @property
    def per_second(self) -> float:
        """Of a closed loop. To its last answer, as answers come batch by batch: the end of the seconds cuts one off."""
        return self.answered / self.elapsed_s if self.answered else 0.0

    @property
    def goodput(self) -> float:
        """Of an open loop, per second."""
        return self.in_time / self.seconds

    @property
    def failures(self) -> int:
        return sum(self.failed.values())


@dataclass
class Tally:
    """Counts while a run is on. Times are of `time.perf_counter`."""

    judge: Judge
    seconds: float
    sent: int = 0
    wrong: int = 0
    in_time: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    _latencies: array[float] = field(default_factory=lambda: array("d"))
    _refusals: array[float] = field(default_factory=lambda: array("d"))
    _lags: array[float] = field(default_factory=lambda: array("d"))

    def begin(self) -> float:
        """When the run begins: now."""
        self._cpu_s = time.process_time()
        self._last_s = self._begins_s = time.perf_counter()
        self._ends_s = self._begins_s + self.seconds
        return self._begins_s

    def is_over(self) -> bool:
        return time.perf_counter() >= self._ends_s

    def asked(self, due_s: float) -> None:
        """A request that was due then goes out now."""
        self._lags.append(time.perf_counter() - due_s)

    def took(self, question: int, since_s: float, reply: Reply | str) -> None:
        """What came of a request that was, or should have been, sent at `since_s`."""
        now = time.perf_counter()
        self.sent += 1
        if isinstance(reply, str):
            self.failed[reply] += 1
        elif reply.status in _REFUSALS:
            self._refusals.append(now - since_s)
        elif reply.status != 200:
            self.failed[f"status {reply.status}"] += 1
        elif self.judge.is_right(question, reply.body):
            self._latencies.append(now - since_s)
            self.in_time += now < self._ends_s
            self._last_s = now
        else:
            self.wrong += 1

    def outcome(self) -> Outcome:
        cpu_s = time.process_time() - self._cpu_s
        return Outcome(
            seconds=self.seconds,
            sent=self.sent,
            answered=len(self._latencies),
            in_time=self.in_time,
            elapsed_s=self._last_s - self._begins_s,
            wrong=self.wrong,
            refused=len(self._refusals),
            failed=dict(self.failed),
            latency=_spread(self._latencies),
            refusal=_spread(self._refusals),
            lag=_spread(self._lags),
            client_cpu_ms=1e3 * cpu_s / max(1, self.sent),
        )


def _spread(seconds: array[float]) -> Spread:
    if not seconds:
        return Spread()
    p50, p99, most = 1e3 * np.percentile(np.frombuffer(seconds), [50, 99, 100])
    return Spread(float(p50), float(p99), float(most))
