"""The multiple-choice knapsack: of each layer's options at most one, least cost for a required gain.

    min Σ cost_j·x_j   subject to   Σ gain_j·x_j ≥ target,   Σ_{j of a layer} x_j ≤ 1,   x binary

To optimality, by dynamic programming over the layers with two prunings.

*Dominance* (Nemhauser and Ullmann 1969): of partial solutions with equal layers behind them, one that costs no less
and gains no more than another is dropped; gain beyond the target counts for nothing.

*Bound*: for a multiplier λ ≥ 0 every layer still open adds at least min_j (cost_j − λ·gain_j), so a partial solution
of cost c and gain g ends at no less than

    c − λ·g + λ·target + Σ_{open layers} min(0, min_j (cost_j − λ·gain_j)),

and one for which this exceeds a solution in hand is dropped. With λ from a bisection, which is the optimum of
the linear relaxation, and the solution that it rounds to, little survives: 24 targets of 52 layers with 28
options each take about a second, where HiGHS (`scipy.optimize.milp`, with no gap allowed) needs ten or more, and
prints to stdout on problems with many ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Knapsack"]

Float64 = NDArray[np.float64]
Indices = NDArray[np.int64]

_BISECTIONS = 60
# Sums of the same numbers in different orders differ by less than this.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Knapsack:
    """Options by their costs and gains (both not negative) and layers.

    Attributes:
        costs, gains: one per option.
        layers: 0, 1, …, in increasing order, none without options.
    """

    costs: Float64
    gains: Float64
    layers: Indices

    @property
    def largest_gain(self) -> float:
        """What the best options of all layers gain together."""
        return float(np.maximum.reduceat(self.gains, self._start).sum())

    def solve(self, target: float) -> list[int]:
        """The options of least cost that gain `target`, which is at most `largest_gain`; in order.

        Up to rounding (1e-12 of the largest sums). Ties go to keeping a layer, then to the option given first.
        """
        kept = _WithKeep.of(self, target * (1 - _ROUNDING))
        return [int(j - kept.layer[j] - 1) for j in kept.solve() if j not in kept.start]

    @property
    def _start(self) -> Indices:
        return np.flatnonzero(np.diff(self.layers, prepend=-1))


@dataclass(frozen=True, eq=False)
class _WithKeep:
    """The problem with "keep" as the first option of every layer, of cost and gain 0; exactly one option a layer.

    Attributes:
        start: where each layer's options start.
    """

    cost: Float64
    gain: Float64
    layer: Indices
    start: Indices
    target: float

    @classmethod
    def of(cls, problem: Knapsack, target: float) -> _WithKeep:
        start = problem._start
        return cls(
            cost=np.insert(problem.costs, start, 0.0),
            gain=np.insert(problem.gains, start, 0.0),
            layer=np.insert(problem.layers, start, problem.layers[start]),
            start=start + np.arange(len(start)),
            target=target,
        )

    def solve(self) -> list[int]:
        """One option per layer."""
        multiplier, known = self._relax()
        upper = float(self.cost[known].sum())
        price = self.cost - multiplier * self.gain
        least = np.minimum.reduceat(price, self.start)
        slack = upper - (multiplier * self.target + float(least.sum()))
        slack += _ROUNDING * (upper + multiplier * float(self.gain.sum()))

        # States of the layers so far, by gain falling and cost falling; `above` is how far a state's price is
        # above the least possible, which only grows.
        gain, cost, above = (np.zeros(1) for _ in range(3))
        steps: list[tuple[Indices, Indices]] = []
        for layer, options in enumerate(np.split(np.arange(len(self.cost)), self.start[1:])):
            options = options[price[options] - least[layer] <= slack]
            state = np.repeat(np.arange(len(gain)), len(options))
            option = np.tile(options, len(gain))
            new_above = above[state] + price[option] - least[layer]
            within = np.flatnonzero(new_above <= slack)
            state, option, above = state[within], option[within], new_above[within]
            cost = cost[state] + self.cost[option]
            gain = np.minimum(gain[state] + self.gain[option], self.target)
            best = _undominated(gain, cost)
            gain, cost, above = gain[best], cost[best], above[best]
            steps.append((state[best], option[best]))
        # The state of most gain comes first, and reaches the target, as the solution in hand does.
        chosen, at = [], 0
        for parent, option in reversed(steps):
            chosen.append(int(option[at]))
            at = int(parent[at])
        return chosen[::-1]

    def _relax(self) -> tuple[float, Indices]:
        """The multiplier that the linear relaxation gives, and a solution of the whole problem near it."""
        low, high = 0.0, 1.0
        while self._gain_at(high) < self.target and high < 1e18:
            high *= 4.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if self._gain_at(middle) >= self.target else (middle, high)
        chosen = self._cheapest(high)
        if self.gain[chosen].sum() < self.target:
            chosen = _first_of_each(self.gain == np.maximum.reduceat(self.gain, self.start)[self.layer], self.layer)
        return high, self._spend_spare(chosen)

    def _cheapest(self, multiplier: float) -> Indices:
        price = self.cost - multiplier * self.gain
        return _first_of_each(price == np.minimum.reduceat(price, self.start)[self.layer], self.layer)

    def _gain_at(self, multiplier: float) -> float:
        return float(self.gain[self._cheapest(multiplier)].sum())

    def _spend_spare(self, chosen: Indices) -> Indices:
        """Exchange one option at a time for a cheaper one, most saved first, while the target is still reached."""
        chosen = chosen.copy()
        while True:
            spare = self.gain[chosen].sum() - self.target
            current = chosen[self.layer]
            saved = self.cost[current] - self.cost
            saved[self.gain[current] - self.gain > spare] = 0.0
            best = int(np.argmax(saved))
            if saved[best] <= 0:
                return chosen
            chosen[self.layer[best]] = best


def _first_of_each(mask: NDArray[np.bool_], layer: Indices) -> Indices:
    """The first option of each layer for which `mask` holds."""
    found = np.flatnonzero(mask)
    return found[np.unique(layer[found], return_index=True)[1]]


def _undominated(gain: Float64, cost: Float64) -> Indices:
    """Indices of the states that no other beats, most gain first; the first given of equals."""
    order = np.lexsort((np.arange(len(gain)), cost, -gain))
    falling = np.minimum.accumulate(cost[order])
    first = np.ones(len(order), bool)
    first[1:] = falling[1:] < falling[:-1]
    return order[first]
