from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ranksmith.convolution import ConvLayer
from ranksmith.errors import RankError
from ranksmith.lowrank.cost import aligned_ranks, break_even_rank, chain_macs, pair_macs_ratio, skeleton
from ranksmith.lowrank.factor import KINDS, factors, full_rank
from tests.unit.lowrank.cases import Case, cases, make_layer, statistics_for


def _blank(out: int, inside: int, kernel: int = 3, **geometry: object) -> ConvLayer:
    pad = kernel // 2
    weight = np.broadcast_to(np.float32(0), (out, inside, kernel, kernel))
    return ConvLayer(weight, pads=(pad, pad, pad, pad), **geometry)  # type: ignore[arg-type]


def test_costs_of_a_512_channel_3x3() -> None:
    layer = _blank(512, 512)
    assert layer.macs(7, 7) == 512 * 512 * 9 * 49
    chain = skeleton(layer, "output-pca", 128)
    assert chain_macs(chain, 7, 7) == (128 * 512 * 9 + 512 * 128) * 49
    assert pair_macs_ratio(layer, "output-pca", 128, 7, 7) == pytest.approx(128 * (4608 + 512) / (512 * 4608))
    assert pair_macs_ratio(layer, "spatial-vertical", 256, 7, 7) == pytest.approx(2 * 256 * 512 * 3 / (512 * 4608))
    assert break_even_rank(layer) == 461


def test_break_even_is_where_the_pair_stops_being_cheaper() -> None:
    for layer in (_blank(64, 48), _blank(256, 64, 1), _blank(64, 32, group=2)):
        rank = break_even_rank(layer)
        assert (
            pair_macs_ratio(layer, "weight-svd", rank - 1, 14, 14)
            < 1
            <= pair_macs_ratio(layer, "weight-svd", rank, 14, 14)
        )


def test_a_vertical_split_pays_for_the_rows_it_strides_first() -> None:
    layer = _blank(64, 64, strides=(2, 2))
    chain = skeleton(layer, "spatial-vertical", 16)
    assert chain_macs(chain, 14, 14) == 16 * 64 * 3 * (7 * 14) + 64 * 16 * 3 * (7 * 7)


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(case=cases())
@settings(deadline=None, max_examples=15)
def test_the_skeleton_is_the_chain_without_its_numbers(kind: str, case: Case) -> None:
    rank = (full_rank(case.layer, kind) + 1) // 2
    chain = factors(case.layer, kind, rank, statistics_for(kind, case.layer, case.x))
    blank = skeleton(case.layer, kind, rank)
    for found, expected in zip(blank, chain, strict=True):
        for name in ("strides", "pads", "dilations", "group", "parameters"):
            assert getattr(found, name) == getattr(expected, name)
        assert found.weight.shape == expected.weight.shape
    assert chain_macs(blank, 8, 8) == chain_macs(chain, 8, 8)


def test_aligned_ranks_are_multiples_of_the_block_that_pay() -> None:
    layer = _blank(64, 64)
    ranks = aligned_ranks(layer, "output-pca", 16, h=14, w=14)
    assert ranks == [16, 32, 48]
    assert aligned_ranks(layer, "output-pca", 16, h=14, w=14, margin=0.4) == [16, 32]
    assert aligned_ranks(layer, "output-pca", 128, h=14, w=14) == []
    assert aligned_ranks(_blank(64, 64, 1), "output-pca", 16, h=14, w=14) == [16]


def test_both_mode_ranks_of_tucker_are_aligned() -> None:
    layer = _blank(128, 64)
    ranks = aligned_ranks(layer, "tucker2", 16, h=14, w=14)
    assert ranks
    for rank in ranks:
        first, core, _ = skeleton(layer, "tucker2", rank)
        assert first.out_channels % 16 == core.out_channels % 16 == 0
        assert core.out_channels == 2 * first.out_channels


def test_a_skeleton_outside_its_ranks_is_refused() -> None:
    layer = make_layer(np.random.default_rng(0), 4, 4)
    with pytest.raises(RankError, match=r"rank 5 is outside 1\.\.4"):
        skeleton(layer, "weight-svd", 5)
