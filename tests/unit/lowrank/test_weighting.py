from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.columns import convolve, convolve_chain
from ranksmith.lowrank.compose import layer_error
from ranksmith.lowrank.factor import KINDS, Factorizer
from ranksmith.lowrank.statistics import InputStatistics
from ranksmith.lowrank.weighting import weightings
from tests.unit.lowrank.cases import Case, activations, cases, make_layer, statistics_for

DATA_AWARE = sorted(name for name, kind in KINDS.items() if kind.needs)


def _metric(rng: np.random.Generator, size: int) -> np.ndarray:
    """A second moment in which a few directions matter most."""
    mix = rng.standard_normal((size, size)) * np.geomspace(1, 0.1, size)
    return mix @ mix.T


def _weighted(layer: ConvLayer, chain: tuple[ConvLayer, ...], x: np.ndarray, metric: np.ndarray) -> float:
    """E (y − ŷ)ᵀG(y − ŷ)"""
    gone = (convolve(x, layer) - convolve_chain(x, chain)).transpose(1, 0, 2, 3).reshape(layer.out_channels, -1)
    return float(np.einsum("op,oq,qp->", gone, metric, gone, optimize=True)) / gone.shape[1]


@pytest.mark.parametrize("kind", DATA_AWARE)
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_weighted_error_falls_and_the_plain_one_is_what_is_told(kind: str, group: int, kernel: int) -> None:
    rng = np.random.default_rng(3)
    pad = kernel // 2
    layer = make_layer(rng, 16, 12, (kernel, kernel), pads=(pad, pad, pad, pad), group=group)
    x = activations(rng, 12, 12, (12, 12))
    metric = _metric(rng, 16)
    if group == 2:
        metric[:8, 8:] = metric[8:, :8] = 0
    statistics = statistics_for(kind, layer, x)
    inputs = InputStatistics(layer)
    inputs.update(x)
    plain, weighted = Factorizer(layer, kind, statistics), Factorizer(layer, kind, statistics, metric)
    rank = weighted.full_rank // 2
    for rounds in (0, 1):
        chains = [factorizer.factors(rank, rounds=rounds) for factorizer in (plain, weighted)]
        costs = [_weighted(layer, chain, x, metric) for chain in chains]
        assert costs[1] < 0.97 * costs[0]
    chain = weighted.factors(rank, rounds=0)
    assert weighted.error(rank) == pytest.approx(layer_error(layer, chain, inputs), rel=1e-3)
    assert plain.error(rank) < weighted.error(rank)
    errors = weighted.errors(range(1, weighted.full_rank + 1))
    assert errors[-1] < 1e-4


@pytest.mark.parametrize("kind", DATA_AWARE)
@given(case=cases(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_full_rank_is_exact_in_any_metric(kind: str, case: Case, seed: int) -> None:
    metric = _metric(np.random.default_rng(seed), case.layer.out_channels)
    factorizer = Factorizer(case.layer, kind, statistics_for(kind, case.layer, case.x), metric)
    assert case.error(factorizer.factors(factorizer.full_rank), case.other) < 2e-4


@pytest.mark.parametrize("kind", DATA_AWARE)
def test_no_metric_is_the_identity_at_any_scale(kind: str) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 8, 6, pads=(1, 1, 1, 1))
    statistics = statistics_for(kind, layer, activations(rng, 4, 6, (9, 9)))
    ranks = [1, 3, 5]
    plain = Factorizer(layer, kind, statistics).errors(ranks)
    for matrix in (np.eye(8), 1e-9 * np.eye(8), np.zeros((8, 8))):
        np.testing.assert_allclose(Factorizer(layer, kind, statistics, matrix).errors(ranks), plain, rtol=1e-6)


def test_weight_svd_is_not_moved() -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 8, 6)
    plain, weighted = Factorizer(layer, "weight-svd"), Factorizer(layer, "weight-svd", None, _metric(rng, 8))
    np.testing.assert_array_equal(plain.errors([2, 4]), weighted.errors([2, 4]))


@given(seed=st.integers(0, 999), directions=st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_the_guarded_metric_is_well_conditioned(seed: int, directions: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((12, directions)) * 1e-6
    asymmetric = vectors @ vectors.T + 1e-16 * rng.standard_normal((12, 12))
    for found in weightings(asymmetric, 12, group=2):
        values = np.linalg.eigvalsh(found.matrix)
        assert values[0] > 0.009
        assert values[-1] / values[0] < 700
        np.testing.assert_allclose(found.root.T @ found.root, found.matrix, atol=1e-10)
        np.testing.assert_allclose(found.matrix, found.matrix.T, atol=1e-12)


def test_a_metric_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 3\) for 4 output channels"):
        weightings(np.eye(3), 4)
    with pytest.raises(ValueError, match="not finite"):
        weightings(np.full((4, 4), np.nan), 4)
