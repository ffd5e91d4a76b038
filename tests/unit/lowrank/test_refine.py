from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ranksmith.lowrank.columns import convolve, convolve_chain
from ranksmith.lowrank.compose import layer_error
from ranksmith.lowrank.factor import Factorizer
from ranksmith.lowrank.statistics import InputStatistics
from tests.unit.lowrank.cases import Case, activations, cases, make_layer

REFINED = ["input-side", "spatial-vertical", "spatial-horizontal"]


def _smooth(rng: np.random.Generator, images: int, channels: int, size: int) -> np.ndarray:
    """Neighbouring positions alike, as in a real feature map, so that kernel positions correlate."""
    wide = activations(rng, images, channels, (size + 2, size + 2))
    return sum(wide[:, :, i : i + size, j : j + size] for i in range(3) for j in range(3)) / np.float32(9)


@pytest.mark.parametrize("kind", REFINED)
@pytest.mark.parametrize("group", [1, 2])
def test_a_round_lowers_the_error_here_and_on_other_images(kind: str, group: int) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 16, 12, pads=(1, 1, 1, 1), group=group)
    x = _smooth(rng, 40, 12, 14)
    seen, held = InputStatistics(layer), InputStatistics(layer)
    seen.update(x[:30])
    held.update(x[30:])
    factorizer = Factorizer(layer, kind, seen)
    rank = factorizer.full_rank // 2
    plain, once, twice = (factorizer.factors(rank, rounds=rounds) for rounds in (0, 1, 2))
    for statistics in (seen, held):
        assert layer_error(layer, once, statistics) < 0.99 * layer_error(layer, plain, statistics)
    assert layer_error(layer, twice, seen) <= 1.001 * layer_error(layer, once, seen)


@pytest.mark.parametrize("kind", REFINED)
@given(case=cases())
@settings(deadline=None, max_examples=20)
def test_it_is_never_much_worse_and_always_finite(kind: str, case: Case) -> None:
    statistics = InputStatistics(case.layer)
    statistics.update(case.x)
    factorizer = Factorizer(case.layer, kind, statistics)
    for rank in range(1, factorizer.full_rank + 1):
        plain, refined = (factorizer.factors(rank, rounds=rounds) for rounds in (0, 1))
        assert np.isfinite(convolve_chain(case.other, refined)).all()
        before, after = (layer_error(case.layer, chain, statistics) for chain in (plain, refined))
        # What is minimised is the error under the shrunk covariance; here there are few positions.
        assert after <= 1.02 * before + 1e-5


@pytest.mark.parametrize("kind", REFINED)
def test_the_mean_of_the_output_is_kept(kind: str) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 6, 5, pads=(1, 1, 1, 1))
    x = activations(rng, 3, 5, (8, 8)).astype(np.float64)
    statistics = InputStatistics(layer)
    statistics.update(x)
    chain = Factorizer(layer, kind, statistics).factors(3)
    means = [values.mean((0, 2, 3)) for values in (convolve_chain(x, chain), convolve(x, layer))]
    np.testing.assert_allclose(*means, atol=1e-5)


@pytest.mark.parametrize(("kernel", "images"), [((1, 1), 3), ((3, 3), 1)])
def test_a_pointwise_layer_and_one_of_too_few_positions_are_left_as_they_are(
    kernel: tuple[int, int], images: int
) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 6, 5, kernel)
    statistics = InputStatistics(layer)
    statistics.update(activations(rng, images, 5, (8, 8)))
    factorizer = Factorizer(layer, "input-side", statistics)
    for plain, refined in zip(factorizer.factors(3, rounds=0), factorizer.factors(3), strict=True):
        np.testing.assert_array_equal(plain.weight, refined.weight)
