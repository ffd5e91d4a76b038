"""Paired, interleaved latency: what can be said about two models on a machine that is never quiet.

All candidates live in one process. A round visits them in a random order and then in that order
reversed (A B B A), each visit one short burst of calls; a round's sample of a candidate is the mean of its
two visits, so what drifts evenly during a round cancels. A sentinel, a fixed matrix product that knows
nothing of the models, is timed at both ends of each round. Rounds in which it strayed from its median are
thrown away and others are run in their place, up to a quarter more: a machine that is always noisy still ends,
and gives the rounds in which the sentinel strayed least. Rejection never looks at the models' own times,
so it cannot favour one of them.

A quarter, since time spent on more pairs is worth as much as time spent on replacing them where the noise is the rule.
(2 cores of an EPYC that others use, two int8 ResNet-50, standard deviation of the median ratio over windows of a
series: best 18 of 36 rounds .010, all 36 .008 with two threads; .006 and .007 with one; any 18 .009 and .011.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranksmith.errors import ModelError
from ranksmith.progress import Advance
from ranksmith.results import LatencySummary, ValueInfo
from ranksmith.runtime.session import Feeds, Session

__all__ = ["drift", "paired_latency", "random_feeds", "sentinel", "session_runners", "summarize"]

Runner = Callable[[], object]

_DRIFT_TOLERANCE = 0.10
_ROUNDS_LIMIT = 1.25
_IMAGE_SIDE = 224

# OpenBLAS runs products of up to 64³ in the calling thread; a larger one would wake a pool that spins afterwards.
_SENTINEL_SIDE = 60
_SENTINEL_PRODUCTS = 30


def paired_latency(
    runners: Sequence[Runner],
    *,
    pairs: int,
    seed: int,
    warmup: int = 3,
    min_time_ms: float = 5.0,
    advance: Advance | None = None,
    sentinel_ms: Callable[[], float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """Time `runners` side by side.

    Args:
        runners: each runs its candidate once.
        pairs: how many rounds to return.
        warmup: calls of each before anything is timed.
        min_time_ms: a burst has as many calls as it takes to last this long.
        advance: told of each round done, at most `pairs` in all.
        sentinel_ms: the time of a fixed piece of work now; `sentinel` by default.
        clock: seconds.

    Returns:
        Milliseconds per call, [pairs, len(runners)], in the order in which they were taken.
    """
    rng = np.random.default_rng(seed)
    calls = [_calls(runner, warmup, min_time_ms, clock) for runner in runners]
    watch = sentinel_ms or sentinel
    samples: list[NDArray[np.float64]] = []
    ends: list[tuple[float, float]] = []
    limit = max(pairs, round(pairs * _ROUNDS_LIMIT))
    reported = 0
    while len(samples) < limit:
        before = watch()
        samples.append(_round(runners, calls, rng.permutation(len(runners)), clock))
        ends.append((before, watch()))
        quiet = int(np.count_nonzero(drift(ends) <= _DRIFT_TOLERANCE))
        if advance is not None and quiet > reported:
            advance(min(quiet, pairs) - min(reported, pairs))
            reported = quiet
        if quiet >= pairs:
            break
    if advance is not None and reported < pairs:
        advance(pairs - reported)
    chosen = np.sort(np.argsort(drift(ends), kind="stable")[:pairs])
    return np.asarray(samples, np.float64).reshape(-1, len(runners))[chosen]


def session_runners(sessions: Sequence[Session], feeds: Feeds) -> list[Runner]:
    """Runners of several sessions that take the same feeds."""
    return [partial(session.run, feeds) for session in sessions]


def drift(ends: ArrayLike) -> NDArray[np.float64]:
    """How far the sentinel strayed in each round: the larger |time / median − 1| of the round's two ends.

    Args:
        ends: the sentinel's times at the start and the end of each round, [rounds, 2].
    """
    times = np.asarray(ends, np.float64)
    strayed: NDArray[np.float64] = np.abs(times / np.median(times) - 1.0).max(axis=1)
    return strayed


def sentinel() -> float:
    """Milliseconds of a fixed matrix product, the median of five goes of a fraction of a millisecond."""
    matrix = np.full((_SENTINEL_SIDE, _SENTINEL_SIDE), 1.0 / _SENTINEL_SIDE, np.float32)
    product = np.empty_like(matrix)
    goes = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(_SENTINEL_PRODUCTS):
            np.matmul(matrix, matrix, out=product)
        goes.append(time.perf_counter() - start)
    return float(np.median(goes)) * 1e3


def summarize(samples_ms: ArrayLike) -> LatencySummary:
    """Mean and percentiles of samples [n] in milliseconds."""
    samples = np.asarray(samples_ms, np.float64)
    p50, p90, p99 = np.percentile(samples, [50, 90, 99])
    return LatencySummary(mean=float(samples.mean()), p50=float(p50), p90=float(p90), p99=float(p99))


def random_feeds(session: Session, batch: int, seed: int) -> dict[str, NDArray[Any]]:
    """Random inputs of the model's shapes, with `batch` images.

    A symbolic first dimension becomes `batch`, symbolic height and width of an image 224, any other
    symbolic dimension 1.

    Raises:
        ModelError: an input's shape is unknown, its type is not a number, or its batch is fixed to another.
    """
    rng = np.random.default_rng(seed)
    return {value.name: _random(rng, _shape(session, value, batch), session, value) for value in session.inputs}


def _shape(session: Session, value: ValueInfo, batch: int) -> list[int]:
    if value.shape is None:
        raise ModelError(f"{session.name}: the shape of input {value.name!r} is not known, so no input can be made up")
    shape = []
    for axis, dimension in enumerate(value.shape):
        if axis == 0:
            if isinstance(dimension, int) and dimension != batch:
                raise ModelError(
                    f"{session.name}: the batch of input {value.name!r} is fixed to {dimension}, not {batch}",
                    hint=f"use --batch {dimension}, or make the batch dimension symbolic",
                )
            shape.append(batch)
        elif isinstance(dimension, int):
            shape.append(dimension)
        else:
            shape.append(_IMAGE_SIDE if len(value.shape) == 4 and axis >= 2 else 1)
    return shape


def _random(rng: np.random.Generator, shape: list[int], session: Session, value: ValueInfo) -> NDArray[Any]:
    try:
        dtype = np.dtype(value.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind in "iu":
        high = 256 if dtype.itemsize == 1 and dtype.kind == "u" else 2
        return rng.integers(0, high, size=shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, size=shape).astype(dtype)
    raise ModelError(f"{session.name}: input {value.name!r} is of type {value.dtype}, for which none can be made up")


def _calls(runner: Runner, warmup: int, min_time_ms: float, clock: Callable[[], float]) -> int:
    """How many calls last `min_time_ms`; warms up on the way."""
    fastest = float("inf")
    for _ in range(max(warmup, 1)):
        start = clock()
        runner()
        fastest = min(fastest, (clock() - start) * 1e3)
    return max(1, int(np.ceil(min_time_ms / max(fastest, 1e-3))))


def _round(
    runners: Sequence[Runner], calls: Sequence[int], order: NDArray[np.int64], clock: Callable[[], float]
) -> NDArray[np.float64]:
    totals = np.zeros(len(runners))
    for position in (*order, *order[::-1]):
        runner, repeats = runners[position], calls[position]
        start = clock()
        for _ in range(repeats):
            runner()
        totals[position] += (clock() - start) / repeats
    return totals * (1e3 / 2)
