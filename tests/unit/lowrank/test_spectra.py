from __future__ import annotations

import numpy as np
import pytest

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.spectra import rank_for_energy, relative_error, retained_energy, weight_energy


def test_energy_is_the_cumulative_share_of_the_eigenvalues() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    energy = retained_energy(rotation @ np.diag([1.0, 6.0, 1.0, 2.0]) @ rotation.T)
    np.testing.assert_allclose(energy, [0.6, 0.8, 0.9, 1.0])
    np.testing.assert_allclose(relative_error(energy), np.sqrt([0.4, 0.2, 0.1, 0.0]), atol=1e-7)


def test_grouped_energy_shares_one_rank_between_the_groups() -> None:
    energy = retained_energy(np.diag([4.0, 1.0, 3.0, 2.0]), group=2)
    np.testing.assert_allclose(energy, [0.7, 1.0])


def test_a_constant_output_loses_nothing() -> None:
    np.testing.assert_array_equal(retained_energy(np.zeros((3, 3))), [1, 1, 1])
    np.testing.assert_array_equal(weight_energy(ConvLayer(np.zeros((2, 3, 1, 1)))), [1, 1])


def test_noise_below_zero_does_not_count() -> None:
    energy = retained_energy(np.diag([1.0, 1.0, -1e-3]))
    np.testing.assert_allclose(energy, [0.5, 1.0, 1.0])


def test_weight_energy_is_of_the_squared_singular_values_over_groups() -> None:
    weight = np.zeros((4, 2, 1, 1))
    weight[0, 0], weight[1, 1], weight[2, 1], weight[3, 0] = 2, 1, 3, 1
    np.testing.assert_allclose(weight_energy(ConvLayer(weight, group=2)), [13 / 15, 1.0])
    np.testing.assert_allclose(weight_energy(ConvLayer(weight)), [10 / 15, 1.0])


@pytest.mark.parametrize(
    ("target", "multiple", "rank"),
    [
        (0.5, 1, 1),
        (0.81, 1, 3),
        (0.8, 1, 2),
        (0.81, 2, 4),
        (0.5, 4, 4),
        (1.0, 1, 5),
        (2.0, 1, 5),
        (0.0, 1, 1),
        (1.0, 4, 5),
    ],
)
def test_rank_for_energy_is_the_smallest_that_retains_it(target: float, multiple: int, rank: int) -> None:
    assert rank_for_energy(np.array([0.6, 0.8, 0.9, 0.95, 1.0]), target, multiple) == rank
