from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.columns import convolve, convolve_chain
from ranksmith.lowrank.compose import compose, layer_error
from ranksmith.lowrank.factor import Factorizer
from ranksmith.lowrank.kinds.base import weight_matrix
from ranksmith.lowrank.kinds.grouped import split_layer
from ranksmith.lowrank.kinds.index import IndexSplit
from ranksmith.lowrank.kinds.input_side import INPUT_SPLIT
from ranksmith.lowrank.scarce import blend_input
from ranksmith.lowrank.statistics import InputStatistics
from tests.unit.lowrank.cases import Case, activations, cases, make_layer

SPLITS = {
    "input-side": INPUT_SPLIT,
    "spatial-vertical": IndexSplit(order=(0, 1, 2), shared=2),
    "spatial-horizontal": IndexSplit(order=(0, 2, 1), shared=2),
}
REFINED = list(SPLITS)


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


def _fitted_cost(kind: str, layer: ConvLayer, chain: tuple[ConvLayer, ...], statistics: InputStatistics) -> float:
    """What the factors are fitted to, tr Δ·(C + τ·C_s ⊗ I)·Δᵀ with C blended, over the same of W."""
    weights, deltas = split_layer(layer), split_layer(compose(chain))
    cost = energy = 0.0
    for group, (part, whole) in enumerate(zip(weights, deltas, strict=True)):
        moments = blend_input(part, statistics.moments(group))
        columns = SPLITS[kind].columns(part)
        covariance = moments.covariance.copy()
        own = sum(moments.covariance[np.ix_(each, each)] for each in columns.T) / columns.shape[1]
        for each in columns.T:
            covariance[np.ix_(each, each)] += 10 * len(covariance) / moments.count * own
        weight = weight_matrix(part)
        delta = weight_matrix(whole) - weight
        cost += float(np.sum((delta @ covariance) * delta))
        energy += float(np.sum((weight @ covariance) * weight))
    return cost / energy if energy > 0 else 0.0


@pytest.mark.parametrize("kind", REFINED)
@given(case=cases())
@settings(deadline=None, max_examples=20)
def test_what_is_fitted_never_grows_and_all_is_finite(kind: str, case: Case) -> None:
    statistics = InputStatistics(case.layer)
    statistics.update(case.x)
    factorizer = Factorizer(case.layer, kind, statistics)
    for rank in range(1, factorizer.full_rank + 1):
        plain, refined = (factorizer.factors(rank, rounds=rounds) for rounds in (0, 1))
        assert np.isfinite(convolve_chain(case.other, refined)).all()
        before, after = (_fitted_cost(kind, case.layer, chain, statistics) for chain in (plain, refined))
        assert after <= before * (1 + 1e-4) + 1e-9


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
