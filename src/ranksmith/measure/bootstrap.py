"""Bootstrap 95 % intervals: of a mean, and of the median of paired ratios.

Percentile bootstrap (Efron 1979): resample with replacement, take the statistic each time, and report
the 2.5th and 97.5th percentiles. Seeded, so the same samples give the same interval.

Where several results were looked at on the same samples until one was good enough, each interval is as much wider that
all of them hold together with 95 % (Bonferroni). That is enough when what is looked at next depends on these samples
only through "not good enough": then there are not more results to be had than looks (Blum and Hardt 2015, "The
Ladder").
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranksmith.results import Interval, Speedup

__all__ = ["mean_ci95", "paired_ratio_ci95"]

_RESAMPLES = 4000
_FEW_VALUES = 16
_CHUNK_ELEMENTS = 4_000_000


def mean_ci95(values: ArrayLike, seed: int, *, looks: int = 1) -> Interval:
    """The interval of the mean of `values` [n].

    Args:
        looks: how many results were looked at on these samples, this one included.

    Raises:
        ValueError: no values.
    """
    sample = np.asarray(values, np.float64).ravel()
    if sample.size == 0:
        raise ValueError("the mean of no values")
    rng = np.random.default_rng(seed)
    unique, counts = np.unique(sample, return_counts=True)
    if unique.size <= _FEW_VALUES:
        # Of n draws, how many fall on each value is multinomial: exact, and free of n for hits and misses.
        means = rng.multinomial(sample.size, counts / sample.size, size=_RESAMPLES) @ unique / sample.size
    else:
        means = np.concatenate([resampled.mean(axis=1) for resampled in _resamples(sample, rng)])
    return _percentiles(means, looks)


def paired_ratio_ci95(reference: ArrayLike, candidate: ArrayLike, seed: int) -> Speedup:
    """The median of reference / candidate over pairs, and its interval. Above 1: the candidate is faster.

    Args:
        reference: times [n] of the reference.
        candidate: times [n] of the candidate, entry i taken beside entry i of the reference.

    Raises:
        ValueError: no pairs, or not as many of one as of the other.
    """
    times = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if times[0].shape != times[1].shape or times[0].ndim != 1 or times[0].size == 0:
        raise ValueError(f"pairs expected, not {times[0].shape} against {times[1].shape}")
    ratios = times[0] / times[1]
    rng = np.random.default_rng(seed)
    medians = np.concatenate([np.median(resampled, axis=1) for resampled in _resamples(ratios, rng)])
    return Speedup(ratio=float(np.median(ratios)), ci95=_percentiles(medians))


def _resamples(sample: NDArray[np.float64], rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """`_RESAMPLES` rows of resampled values, in chunks that keep memory small."""
    rows = max(1, _CHUNK_ELEMENTS // sample.size)
    for start in range(0, _RESAMPLES, rows):
        size = (min(rows, _RESAMPLES - start), sample.size)
        yield sample[rng.integers(0, sample.size, size=size)]


def _percentiles(values: NDArray[np.float64], looks: int = 1) -> Interval:
    low, high = np.percentile(values, [2.5 / looks, 100.0 - 2.5 / looks])
    return float(low), float(high)
