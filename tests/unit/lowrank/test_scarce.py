"""Data that are few, degenerate or constant: finite factors, and no error that looks smaller than it is."""

from __future__ import annotations

import numpy as np
import pytest

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.columns import convolve, convolve_chain
from ranksmith.lowrank.factor import KINDS, Factorizer, factors
from tests.unit.lowrank.cases import activations, make_layer, statistics_for

DATA_AWARE = sorted(name for name, kind in KINDS.items() if kind.needs)


def _measured(layer: ConvLayer, chain: tuple[ConvLayer, ...], x: np.ndarray) -> float:
    exact = convolve(x, layer)
    spread = exact - exact.mean((0, 2, 3), keepdims=True)
    return float(np.linalg.norm(convolve_chain(x, chain) - exact) / np.linalg.norm(spread))


@pytest.mark.parametrize("kind", DATA_AWARE)
@pytest.mark.parametrize("kernel", [1, 3])
def test_fewer_positions_than_channels_do_not_look_lossless(kind: str, kernel: int) -> None:
    rng = np.random.default_rng(0)
    pad = kernel // 2
    layer = make_layer(rng, 96, 64, (kernel, kernel), pads=(pad, pad, pad, pad))
    x = rng.standard_normal((9, 64, 5, 5)).astype(np.float32)
    statistics = statistics_for(kind, layer, x[:1])
    factorizer = Factorizer(layer, kind, statistics)
    assert factorizer.undersampled
    for rank in (26, 40):  # 25 positions
        held_out = _measured(layer, factorizer.factors(rank), x[1:])
        assert held_out > 0.3
        assert factorizer.error(rank) > 0.6 * held_out


@pytest.mark.parametrize("kind", ["input-side", "spatial-vertical", "tucker2"])
def test_the_error_told_is_the_datas_own_though_the_factors_saw_noise(kind: str) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 24, 20, pads=(1, 1, 1, 1))
    x = activations(rng, 2, 20, (6, 6))
    factorizer = Factorizer(layer, kind, statistics_for(kind, layer, x))
    assert factorizer.undersampled  # 72 positions of 180 entries
    for rank in (4, 10):
        chain = factorizer.factors(rank, rounds=0)
        assert factorizer.error(rank) == pytest.approx(_measured(layer, chain, x), rel=1e-3)


@pytest.mark.parametrize("kind", DATA_AWARE)
def test_many_positions_are_taken_at_their_word(kind: str) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 8, 6, (3, 3), group=2)
    x = activations(rng, 6, 6, (10, 10))
    factorizer = Factorizer(layer, kind, statistics_for(kind, layer, x))
    assert not factorizer.undersampled
    chain = factorizer.factors(2, rounds=0)
    assert factorizer.error(2) == pytest.approx(_measured(layer, chain, x), rel=1e-3)


@pytest.mark.parametrize("kind", DATA_AWARE)
@pytest.mark.parametrize("value", [0.0, 1.0, 300.1])
def test_of_constant_inputs_the_weight_decides(kind: str, value: float) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 12, 8)
    statistics = statistics_for(kind, layer, np.full((4, 8, 12, 12), value, np.float32))
    factorizer = Factorizer(layer, kind, statistics)
    errors = factorizer.errors(range(1, factorizer.full_rank + 1))
    assert errors[0] > 0.5
    assert errors[-1] < 1e-4
    x = rng.standard_normal((2, 8, 10, 10)).astype(np.float32)
    chain = factorizer.factors(4)
    assert _measured(layer, chain, x + np.float32(value)) == pytest.approx(errors[3], rel=0.2)


@pytest.mark.parametrize("kind", DATA_AWARE)
@pytest.mark.parametrize("times", [1, 50])
def test_one_repeated_image_gives_what_it_gives_once(kind: str, times: int) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 12, 8, pads=(1, 1, 1, 1))
    x = activations(rng, 1, 8, (12, 12))
    statistics = statistics_for(kind, layer, np.repeat(x, times, axis=0))
    chain = factors(layer, kind, 6, statistics)
    other = activations(np.random.default_rng(1), 4, 8, (12, 12))
    assert _measured(layer, chain, other) < 1.0


@pytest.mark.parametrize("kind", DATA_AWARE)
def test_dead_and_copied_channels_are_survived(kind: str) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 12, 8, pads=(1, 1, 1, 1))
    layer.weight[3] = 0
    layer.weight[7] = layer.weight[6]
    x = activations(rng, 6, 8, (12, 12))
    x[:, 2] = 0
    x[:, 5] = x[:, 4]
    statistics = statistics_for(kind, layer, x)
    factorizer = Factorizer(layer, kind, statistics)
    assert np.isfinite(factorizer.errors(range(1, factorizer.full_rank + 1))).all()
    # A channel that calibration saw dead is not given up at full rank.
    lively = rng.standard_normal((2, 8, 12, 12)).astype(np.float32)
    assert _measured(layer, factorizer.factors(factorizer.full_rank), lively) < 1e-4


@pytest.mark.parametrize("kind", DATA_AWARE)
@pytest.mark.parametrize("ratio", [1e3, 1e5])
def test_one_direction_that_dwarfs_all_others(kind: str, ratio: float) -> None:
    """The covariance is then, in single precision, all but singular."""
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 32, 32, pads=(1, 1, 1, 1))
    x = rng.standard_normal((6, 32, 12, 12)) + ratio * rng.standard_normal((6, 1, 1, 1))
    factorizer = Factorizer(layer, kind, statistics_for(kind, layer, x.astype(np.float32)))
    ranks = range(1, factorizer.full_rank + 1, 3)
    assert np.isfinite(factorizer.errors(ranks)).all()
    assert all(np.isfinite(part.weight).all() for part in factorizer.factors(8))


def test_statistics_of_no_use_are_not_asked_whether_they_suffice() -> None:
    assert not Factorizer(make_layer(np.random.default_rng(0), 4, 4), "weight-svd").undersampled
