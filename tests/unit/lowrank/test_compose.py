from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank.columns import convolve, convolve_chain
from ranksmith.lowrank.compose import compose, layer_error
from ranksmith.lowrank.factor import KINDS, factors, full_rank
from ranksmith.lowrank.statistics import InputStatistics
from tests.unit.lowrank.cases import Case, cases, make_layer, statistics_for


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(case=cases())
@settings(deadline=None, max_examples=15)
def test_the_composed_layer_does_what_the_chain_does(kind: str, case: Case) -> None:
    rank = (full_rank(case.layer, kind) + 1) // 2
    chain = factors(case.layer, kind, rank, statistics_for(kind, case.layer, case.x))
    whole = compose(chain)
    assert whole.weight.shape == case.layer.weight.shape
    geometry = ("strides", "pads", "group")
    assert [getattr(whole, name) for name in geometry] == [getattr(case.layer, name) for name in geometry]
    x = case.other.astype(np.float64)
    np.testing.assert_allclose(convolve(x, whole), convolve_chain(x, chain), atol=1e-5)


def _layers() -> tuple[ConvLayer, ConvLayer]:
    rng = np.random.default_rng(0)
    return make_layer(rng, 4, 4, (3, 1), bias=False), make_layer(rng, 4, 4, (1, 3))


def test_chains_that_are_no_single_conv_are_refused() -> None:
    first, second = _layers()
    with pytest.raises(ValueError, match="same axis"):
        compose([first, first])
    with pytest.raises(ValueError, match="groups"):
        compose([first, make_layer(np.random.default_rng(0), 4, 4, (1, 1), group=2)])
    padded = ConvLayer(second.weight, None, pads=(0, 1, 0, 1))
    with pytest.raises(ValueError, match="bias before padding"):
        compose([ConvLayer(first.weight, np.ones(4, np.float32)), padded])
    with pytest.raises(ValueError, match="in place of"):
        layer_error(first, [second], InputStatistics(first))


def test_a_bias_passes_through_a_pointwise_factor() -> None:
    rng = np.random.default_rng(0)
    chain = (make_layer(rng, 5, 4, (3, 3), pads=(1, 1, 1, 1)), make_layer(rng, 6, 5, (1, 1), bias=False))
    x = rng.standard_normal((2, 4, 6, 6))
    np.testing.assert_allclose(convolve(x, compose(chain)), convolve_chain(x, chain), atol=1e-10)


def test_a_constant_output_is_either_met_or_missed() -> None:
    layer = make_layer(np.random.default_rng(0), 4, 4)
    statistics = InputStatistics(layer)
    statistics.update(np.ones((1, 4, 6, 6), np.float32))
    assert layer_error(layer, [layer], statistics) == 0.0
    assert layer_error(layer, [ConvLayer(layer.weight, None)], statistics) == float("inf")
