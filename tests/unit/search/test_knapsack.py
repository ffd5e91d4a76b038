from __future__ import annotations

import numpy as np

from ranksmith.search.knapsack import Knapsack


def test_numbers_of_wildly_different_size_are_solved_too() -> None:
    knapsack = Knapsack(np.array([1e10, 1e12]), np.array([1e-10, 2e-10]), np.array([0, 0]))
    assert knapsack.solve(1e-10) == [0]
    assert knapsack.solve(2e-10) == [1]
    assert knapsack.solve(0.0) == []


def test_the_largest_gain_is_reached_when_it_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    gains = rng.uniform(0, 1, 300)
    knapsack = Knapsack(rng.uniform(0, 1, 300), gains, np.repeat(np.arange(30), 10))
    chosen = knapsack.solve(knapsack.largest_gain)
    np.testing.assert_array_equal(gains[chosen], gains.reshape(30, 10).max(1))


def test_free_options_are_taken_only_where_they_are_needed() -> None:
    knapsack = Knapsack(np.zeros(3), np.ones(3), np.arange(3))
    assert knapsack.solve(2.0) == [0, 1]
