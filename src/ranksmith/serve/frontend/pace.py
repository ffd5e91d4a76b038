"""How long a request will take: from what a batch costs, and from how long the last ones took.

    expected = (full batches ahead · ms(limit) + ms(rest) + ms(rows)) · factor

The curve ms(·) is of a session that has the machine to itself. Under load it has not, other front ends send to the same
worker as well, and what waits in sockets is seen by nobody; all of that is in the factor, which follows what happens:

    factor ← factor + w · (took / expected without factor − factor),   w = 0.05 · min(1, expected / 50 ms)

A short expectation says little, since what a request costs beside the queue is then most of it.
"""

from __future__ import annotations

from ranksmith.serve.cost import CostCurve

__all__ = ["Pace"]

_WEIGHT = 0.05
_TELLING_S = 0.05
_LEAST, _MOST = 0.5, 100.0


class Pace:
    """Of one generation of a model.

    Args:
        limit: rows that run together.
    """

    def __init__(self, curve: CostCurve, limit: int) -> None:
        # Not `curve.ms`: every request comes by here.
        self._alpha_ms, self._beta_ms = curve.alpha_ms, curve.beta_ms
        self._limit = max(limit, 1)
        self._full_ms = curve.ms(self._limit)
        self.factor = 1.0

    def alone_s(self, ahead: int, rows: int) -> float:
        """Until an answer, if the machine did nothing else, for `rows` rows behind `ahead` others."""
        batches, rest = divmod(ahead, self._limit)
        own_ms = self._alpha_ms + self._beta_ms * rows
        rest_ms = self._alpha_ms + self._beta_ms * rest if rest else 0.0
        return (batches * self._full_ms + rest_ms + own_ms) / 1e3

    def observe(self, alone_s: float, took_s: float) -> None:
        """A request of which the first was expected took the second, or more than that."""
        weight = _WEIGHT * min(1.0, alone_s / _TELLING_S)
        moved = self.factor + weight * (took_s / max(alone_s, 1e-6) - self.factor)
        self.factor = min(max(moved, _LEAST), _MOST)
