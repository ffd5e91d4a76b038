"""From the values an activation took to the range that eight bits cover.

A `Histogram` has 8192 bins over [−L, L) with L a power of two above the largest |x| seen. When a larger one comes, L
doubles and neighbouring bins are added up, so counts are exact, memory is fixed, and the result depends on what was
seen, not on its order or its batches.

Methods, as onnxruntime's calibrators define them:

- `minmax`: the smallest and the largest value.
- `percentile-p`: (100 − p)/2 percent of the values are cut off on either side.
- `entropy`: the threshold t for which [−t, t] in 256 levels keeps the distribution best. P: the histogram cut at t,
  what lies beyond added to its last bins; Q: the cut histogram averaged over the bins of each level, empty bins left
  out; t is where KL(P ‖ Q) is least. (Migacz 2017, "8-bit inference with TensorRT".) The bins beside zero take their
  neighbours' count: zeros, half of what a Relu lets through, have no rounding error at any scale.

Every range holds zero, and lies within what was seen otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ranksmith.errors import UsageError

__all__ = ["METHODS", "Histogram"]

METHODS = ("minmax", "percentile-99.999", "percentile-99.99", "entropy")

_BINS = 8192
_CENTRE = _BINS // 2
_LEAST_LIMIT = 2.0**-100
"""Keeps the scale of tiny values within float32."""
_LEVELS = 256
_THRESHOLDS = 96
"""How many thresholds `entropy` tries."""
_CHUNK = 1 << 17
"""Elements binned at once: what fits into a core's cache."""


class Histogram:
    """Counts of the values seen so far, with their smallest and largest."""

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf
        self._limit = 0.0
        self._counts = np.zeros(_BINS, np.int64)

    def update(self, values: NDArray[np.floating]) -> None:
        """Add `values`, of any shape.

        Raises:
            ValueError: one is not finite; nothing of `values` is added then.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("a value is NaN or infinite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))
        if self._limit == 0.0:  # zeros only: the scale is still open
            self._counts[_CENTRE] += values.size
            return
        flat = values.reshape(-1)
        # Scaling by a power of two is exact, so a value's bin at one scale lies within its bin at the next.
        scale = flat.dtype.type(_CENTRE / self._limit)
        for start in range(0, flat.size, _CHUNK):
            scaled = flat[start : start + _CHUNK] * scale
            if low < 0:
                np.floor(scaled, out=scaled)
            bins = scaled.astype(np.intp)
            bins += _CENTRE
            self._counts += np.bincount(bins, minlength=_BINS)

    def _reach(self, largest: float) -> None:
        """Widen the bins until `largest` lies in one."""
        if largest == 0.0:
            return
        limit = max(float(np.ldexp(1.0, int(np.frexp(largest)[1]))), _LEAST_LIMIT)
        if self._limit == 0.0:
            self._limit = limit
        while self._limit < limit:
            pairs = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts[:] = 0
            self._counts[_CENTRE // 2 : _CENTRE // 2 + _CENTRE] = pairs
            self._limit *= 2

    def range(self, method: str) -> tuple[float, float]:
        """(lowest, highest) by one of `METHODS`; both zero where nothing was seen.

        Raises:
            UsageError: no such method.
        """
        if method not in METHODS:
            raise UsageError(f"no method {method!r} for ranges", hint=f"choose one of {', '.join(METHODS)}")
        if self._limit == 0.0:
            return 0.0, 0.0
        if method == "minmax":
            low, high = self.low, self.high
        elif method == "entropy":
            threshold = self._entropy_threshold()
            low, high = max(self.low, -threshold), min(self.high, threshold)
        else:
            low, high = self._percentile(float(method.partition("-")[2]))
        return min(low, 0.0), max(high, 0.0)

    def _percentile(self, percent: float) -> tuple[float, float]:
        total = np.cumsum(self._counts)
        cut = (100.0 - percent) / 200.0 * float(total[-1])
        first, last = np.searchsorted(total, [cut, total[-1] - cut], side="left")
        width = self._limit / _CENTRE
        return max(self.low, (int(first) - _CENTRE) * width), min(self.high, (int(last) + 1 - _CENTRE) * width)

    def _entropy_threshold(self) -> float:
        width = self._limit / _CENTRE
        first = _CENTRE + int(np.floor(max(self.low, -self._limit) / width))
        last = _CENTRE + int(np.floor(self.high / width)) + 1
        first, last = min(first, _CENTRE), max(last, _CENTRE)
        counts = self._counts.astype(np.float64)
        counts[_CENTRE - 1 : _CENTRE + 1] = counts[_CENTRE - 2], counts[_CENTRE + 1]
        reach = max(last - _CENTRE, _CENTRE - first)
        best, threshold = np.inf, reach
        for candidate in np.unique(np.linspace(reach / 16, reach, _THRESHOLDS).astype(int))[::-1]:
            start, stop = max(first, _CENTRE - candidate), min(last, _CENTRE + candidate)
            if stop - start < _LEVELS:
                break
            divergence = _divergence(counts, start, stop)
            if divergence < best:
                best, threshold = divergence, candidate
        return float(threshold * width)


def _divergence(counts: NDArray[np.float64], start: int, stop: int) -> float:
    """KL(P ‖ Q) in nats of cutting `counts` to [start, stop)."""
    kept = counts[start:stop]
    cut = kept.copy()
    cut[0] += counts[:start].sum()
    cut[-1] += counts[stop:].sum()
    level = np.arange(kept.size) * _LEVELS // kept.size
    seen = kept > 0
    per_level = np.bincount(level, kept, _LEVELS) / np.maximum(np.bincount(level, seen, _LEVELS), 1)
    expanded = np.where(seen, per_level[level], 0.0)
    if not expanded.sum():
        return np.inf
    p, q = cut / cut.sum(), expanded / expanded.sum()
    # An empty last bin that outliers fell into has no counterpart in Q: a little mass keeps the divergence finite.
    q = np.maximum(q, 1e-12)
    taken = p > 0
    return float((p[taken] * np.log(p[taken] / q[taken])).sum())
