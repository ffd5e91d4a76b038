from __future__ import annotations

import numpy as np
import pytest

from ranksmith.convolution import ConvLayer
from ranksmith.errors import UsageError
from ranksmith.search.candidates import Layer, Option, candidate_options, pareto


def _layer(channels: int = 64, error: object = None) -> Layer:
    weight = np.broadcast_to(np.float32(0), (channels, channels, 3, 3))
    energy = 1 - np.linspace(1, 0, channels + 1)[1:] ** 2
    return Layer("conv", ConvLayer(weight, pads=(1, 1, 1, 1)), (14, 14), energy, error)  # type: ignore[arg-type]


def _option(macs: int, error: float, rank: int = 1) -> Option:
    return Option("conv", "output-pca", rank, macs, 100, 1, 10, error)


def test_options_are_aligned_cheaper_and_carry_the_spectrums_error() -> None:
    options = candidate_options(_layer(), block=16)
    assert [option.rank for option in options] == [16, 32, 48]
    for option in options:
        assert option.macs < option.dense_macs == 64 * 64 * 9 * 14 * 14
        assert option.params < option.dense_params == 64 * 64 * 9
        assert option.error == pytest.approx(1 - option.rank / 64)
        assert option.energy == pytest.approx(1 - option.error**2)
        assert option.ms is None


def test_a_margin_asks_for_more_than_a_little_gain() -> None:
    assert [option.rank for option in candidate_options(_layer(), block=16, margin=0.5)] == [16]


def test_other_kinds_compete_by_their_predicted_error() -> None:
    # A vertical split of rank 16 costs 16·6·64 a position, output PCA of rank 16 costs 16·10·64.
    layer = _layer(error=lambda kind, rank: 0.8 - 0.04 * (rank // 16) if kind == "spatial-vertical" else 2.0)
    options = candidate_options(layer, block=16, kinds=("output-pca", "spatial-vertical", "input-side"))
    assert [(option.kind, option.rank) for option in options] == [
        ("spatial-vertical", 16),
        ("output-pca", 16),
        ("spatial-vertical", 32),
        ("spatial-vertical", 48),
        ("output-pca", 32),
        ("output-pca", 48),
    ]


def test_a_kind_whose_error_cannot_be_predicted_is_refused() -> None:
    with pytest.raises(ValueError, match="conv: the error of input-side"):
        candidate_options(_layer(), block=16, kinds=("input-side",))
    with pytest.raises(UsageError, match="no decomposition kind"):
        candidate_options(_layer(), block=16, kinds=("cp",))


def test_a_layer_narrower_than_the_block_has_no_options() -> None:
    assert candidate_options(_layer(8), block=16) == []


def test_pareto_keeps_what_nothing_beats() -> None:
    options = [_option(30, 0.3), _option(10, 0.5), _option(20, 0.6), _option(30, 0.2), _option(10, 0.5, rank=2)]
    assert pareto(options) == [options[1], options[3]]


def test_times_are_added_without_touching_the_rest() -> None:
    option = _option(30, 0.3)
    timed = option.timed(1.5, 2.0)
    assert (timed.ms, timed.dense_ms) == (1.5, 2.0)
    assert timed.timed(0, 0).macs == option.macs
