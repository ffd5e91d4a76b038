"""What a batch costs, as a straight line through the warm-up's timings.

    ms(b) = α + β·b,   α, β ≥ 0

α is what a batch costs whatever is in it (dispatch, weights read once), β what each row adds.

*Fit*: relative least squares, min Σ ((α + β·b_i) / t_i − 1)², so that a batch of 1 counts as much as one of 64.
That is least squares with weights w_i = 1 / t_i²; with weighted means b̄ and t̄,

    β = Σ w_i (b_i − b̄)(t_i − t̄) / Σ w_i (b_i − b̄)²,   α = t̄ − β·b̄.

At most one of the two comes out negative; the constrained optimum then lies where that one is 0.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CostCurve"]


@dataclass(frozen=True, slots=True)
class CostCurve:
    """latency_ms ≈ alpha_ms + beta_ms · rows."""

    alpha_ms: float
    beta_ms: float

    def __post_init__(self) -> None:
        if not (0 <= self.alpha_ms < math.inf and 0 <= self.beta_ms < math.inf):
            raise ValueError(f"a cost curve is finite and not negative, not {self.alpha_ms} + {self.beta_ms}·rows")

    def ms(self, rows: int) -> float:
        """What one batch of `rows` rows takes."""
        return self.alpha_ms + self.beta_ms * rows

    def rows_within(self, limit_ms: float, largest: int) -> int:
        """The largest batch, of up to `largest` rows, that takes no longer than this; at least 1."""
        if self.ms(largest) <= limit_ms:
            return largest
        if self.beta_ms == 0:
            return 1
        return min(largest, max(1, int((limit_ms - self.alpha_ms) / self.beta_ms)))

    @classmethod
    def fit(cls, rows: Sequence[int], latency_ms: Sequence[float]) -> CostCurve:
        """The curve nearest to the timings, by relative error.

        Timings of one batch size only cannot tell α from β: everything is then put on the rows (α = 0), which
        promises nothing of larger batches.
        """
        _check(rows, latency_ms)
        weights = [1 / ms**2 for ms in latency_ms]
        total = math.fsum(weights)
        mean_rows = _dot(weights, rows) / total
        mean_ms = _dot(weights, latency_ms) / total
        spread = _dot(weights, [(b - mean_rows) ** 2 for b in rows])
        if len(set(rows)) == 1:
            return cls(0.0, mean_ms / rows[0])
        beta = _dot(weights, [(b - mean_rows) * (t - mean_ms) for b, t in zip(rows, latency_ms, strict=True)]) / spread
        alpha = mean_ms - beta * mean_rows
        if beta < 0:
            return cls(mean_ms, 0.0)
        if alpha < 0:
            products = [b * t for b, t in zip(rows, latency_ms, strict=True)]
            return cls(0.0, _dot(weights, products) / _dot(weights, [b * b for b in rows]))
        return cls(alpha, beta)

    def useful_limit(self, largest: int, *, share: float = 0.95) -> int:
        """The smallest batch whose rows per second reach `share` of those at `largest`.

        Beyond it, a larger batch costs latency and gains next to nothing.
        """
        if largest < 1 or not 0 < share <= 1:
            raise ValueError(f"largest is at least 1 and share in (0, 1], not {largest} and {share}")
        goal = share * largest
        return 1 + bisect_left(
            range(1, largest), True, key=lambda rows: rows * self.ms(largest) >= goal * self.ms(rows)
        )


def _check(rows: Sequence[int], latency_ms: Sequence[float]) -> None:
    if not rows or len(rows) != len(latency_ms):
        raise ValueError(f"a fit needs as many batch sizes as timings, not {len(rows)} and {len(latency_ms)}")
    if min(rows) < 1 or not all(0 < ms < math.inf for ms in latency_ms):
        raise ValueError("a fit needs batches of at least one row and finite timings above 0")


def _dot(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(weight * value for weight, value in zip(weights, values, strict=True))
