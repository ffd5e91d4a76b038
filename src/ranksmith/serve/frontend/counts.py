"""What is counted of the requests for one version of a model: float64 numbers in one piece of memory.

An addition costs a fraction of a microsecond, whoever else looks on, and several processes' numbers add up one by one.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from ranksmith.serve.messages import Answer

__all__ = ["COUNTS_BYTES", "Counts", "Histogram"]

_NUMBER_BYTES = 8
_STATUSES = range(400, 600)
_IN_FLIGHT, _ROWS, _BATCHES, _LAST_S, _FAILED_S, _FAILED = range(6)
_HISTOGRAMS = _FAILED + len(_STATUSES)
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_BOUNDS = (_SECONDS, _SECONDS, _SECONDS, _SECONDS, _BATCH_ROWS)
# A histogram has its sum, a count for each bound, and one for what is above them all.
_ENDS = tuple(accumulate((len(bounds) + 2 for bounds in _BOUNDS), initial=_HISTOGRAMS))

COUNTS_BYTES = _ENDS[-1] * _NUMBER_BYTES


class Histogram:
    """How often values fell into each bucket, and their sum."""

    def __init__(self, numbers: memoryview[float], bounds: tuple[float, ...]) -> None:
        self._numbers = numbers
        self._bounds = bounds

    def add(self, value: float, times: int = 1) -> None:
        self._numbers[0] += times * value
        self._numbers[1 + bisect_left(self._bounds, value)] += times

    @property
    def total(self) -> float:
        return self._numbers[0]

    @property
    def count(self) -> int:
        return round(sum(self._numbers[1:]))

    @property
    def cumulated(self) -> list[tuple[float, int]]:
        """Of each upper bound how many values were not above it; the last bound is infinite."""
        return list(zip((*self._bounds, math.inf), map(round, accumulate(self._numbers[1:])), strict=True))


class Counts:
    """The counts of one version of a model: of one process, or of several added up.

    Args:
        memory: `COUNTS_BYTES` of it, zero where nothing has been counted; None: its own.

    Attributes:
        request: seconds from being admitted to the answer, of every request that was answered.
        queue, decode, compute: seconds of these in the worker; only images are decoded.
        batch: rows of the batch that a request was in.
    """

    def __init__(self, memory: memoryview | None = None) -> None:
        self._numbers = numbers = memoryview(memory or bytearray(COUNTS_BYTES)).cast("d")
        self.request, self.queue, self.decode, self.compute, self.batch = (
            Histogram(numbers[start:end], bounds)
            for start, end, bounds in zip(_ENDS[:-1], _ENDS[1:], _BOUNDS, strict=True)
        )

    def begun(self) -> None:
        self._numbers[_IN_FLIGHT] += 1

    def ended(self) -> None:
        self._numbers[_IN_FLIGHT] -= 1

    def settle(self) -> None:
        """The process is gone, and nothing is in flight in it any more."""
        self._numbers[_IN_FLIGHT] = 0

    def answered(self, answer: Answer, rows: int, seconds: Sequence[float]) -> None:
        """Of requests that were answered together.

        Args:
            rows: of all of them.
            seconds: that each of them took.
        """
        self._numbers[_ROWS] += rows
        self._numbers[_BATCHES] += rows / max(rows, answer.rows)
        self._numbers[_LAST_S] = time.time()
        count = len(seconds)
        self.queue.add(answer.queue_ms / 1e3, count)
        self.compute.add(answer.compute_ms / 1e3, count)
        self.batch.add(answer.rows, count)
        if answer.decode_ms:
            self.decode.add(answer.decode_ms / 1e3, count)
        for each in seconds:
            self.request.add(each)

    def failed(self, status: int, seconds: float) -> None:
        self._numbers[_FAILED_S] += seconds
        self._numbers[_FAILED + _STATUSES.index(status)] += 1

    def add(self, other: Counts) -> None:
        """Another process's."""
        last_s = max(self.last_s, other.last_s)
        for at, number in enumerate(other._numbers):
            self._numbers[at] += number
        self._numbers[_LAST_S] = last_s

    @property
    def in_flight(self) -> int:
        return round(self._numbers[_IN_FLIGHT])

    @property
    def rows(self) -> int:
        """Of the requests that were answered."""
        return round(self._numbers[_ROWS])

    @property
    def batches(self) -> int:
        """That ran: each request adds the share of its batch that it was."""
        return round(self._numbers[_BATCHES])

    @property
    def last_s(self) -> float:
        """When the last one was answered, since the epoch."""
        return self._numbers[_LAST_S]

    @property
    def failures(self) -> dict[int, int]:
        """How many failed, by HTTP status."""
        counts = self._numbers[_FAILED:_HISTOGRAMS]
        return {status: round(count) for status, count in zip(_STATUSES, counts, strict=True) if count}

    @property
    def failed_s(self) -> float:
        return self._numbers[_FAILED_S]
