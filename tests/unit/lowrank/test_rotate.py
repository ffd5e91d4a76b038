from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.columns import convolve, convolve_chain
from ranksmith.lowrank.factor import KINDS, factors, full_rank
from ranksmith.lowrank.rotate import balance_and_rotate
from tests.unit.lowrank.cases import Case, cases, make_layer, statistics_for


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(case=cases())
@settings(deadline=None, max_examples=15)
def test_the_chain_does_what_it_did(kind: str, case: Case) -> None:
    rank = (full_rank(case.layer, kind) + 1) // 2
    chain = factors(case.layer, kind, rank, statistics_for(kind, case.layer, case.x))
    turned = balance_and_rotate(chain, 3)
    expected = convolve_chain(case.other, chain)
    scale = float(np.max(np.abs(expected))) + 1e-6
    np.testing.assert_allclose(convolve_chain(case.other, turned) / scale, expected / scale, atol=2e-5)
    for before, after in zip(chain, turned, strict=True):
        assert (after.weight.shape, after.weight.dtype) == (before.weight.shape, before.weight.dtype)
        assert (after.group, after.pads, after.strides) == (before.group, before.pads, before.strides)


@pytest.mark.parametrize("group", [1, 2])
def test_spiky_factors_come_out_even(group: int) -> None:
    rng = np.random.default_rng(0)
    first, second = (
        make_layer(rng, 32, 16, (3, 1), bias=False, group=group),
        make_layer(rng, 24, 32, (1, 3), group=group),
    )
    first.weight[...] *= np.tile(np.geomspace(1, 1e-4, 32 // group), group)[:, None, None, None]
    x = rng.standard_normal((4, 16, 12, 12)).astype(np.float32)

    def unevenness(part: ConvLayer) -> float:
        """Largest over median power of the channels between the two factors."""
        power = np.mean(convolve(x, part) ** 2, axis=(0, 2, 3))
        return float(np.max(power) / np.median(power))

    turned = balance_and_rotate((first, second), 0)
    assert unevenness(first) > 100
    assert unevenness(turned[0]) < 10


def test_neighbouring_factors_are_balanced() -> None:
    rng = np.random.default_rng(0)
    chain = make_layer(rng, 8, 8, (3, 1), bias=False), make_layer(rng, 8, 8, (1, 3))
    chain[0].weight[...] *= 1e4
    first, second = (np.linalg.norm(part.weight) for part in balance_and_rotate(chain, 0))
    assert first == pytest.approx(second, rel=1e-4)


def test_dead_channels_stay_finite() -> None:
    rng = np.random.default_rng(0)
    first, second = make_layer(rng, 4, 4, (1, 1), bias=False), make_layer(rng, 4, 4)
    first.weight[0] = 0
    second.weight[:, 1] = 0
    turned = balance_and_rotate((first, second), 0)
    assert all(np.isfinite(part.weight).all() for part in turned)
    x = rng.standard_normal((1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(convolve_chain(x, turned), convolve_chain(x, (first, second)), atol=1e-4)


def test_the_seed_decides_the_rotation() -> None:
    rng = np.random.default_rng(0)
    chain = make_layer(rng, 4, 4, (1, 1), bias=False), make_layer(rng, 4, 4)
    once, again, other = (balance_and_rotate(chain, seed)[0].weight for seed in (0, 0, 1))
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(once, other)
