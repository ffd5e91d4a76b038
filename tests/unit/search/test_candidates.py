from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.errors import UsageError
from ranksmith.lowrank.factor import KINDS
from ranksmith.search.candidates import Layer, Option, candidate_options, near_pareto, pareto


def _falling(kind: str, ranks: Sequence[int]) -> NDArray[Any]:
    return 1 - np.asarray(ranks) / 64


def _layer(channels: int = 64, errors: Callable[[str, Sequence[int]], NDArray[Any]] = _falling) -> Layer:
    weight = np.broadcast_to(np.float32(0), (channels, channels, 3, 3))
    return Layer("conv", ConvLayer(weight, pads=(1, 1, 1, 1)), (14, 14), errors)


def _option(macs: int, error: float, rank: int = 1) -> Option:
    return Option("conv", "output-pca", rank, macs, 100, 1, 10, error)


def test_options_are_aligned_cheaper_and_carry_the_predicted_error() -> None:
    options = candidate_options(_layer(), block=16, kinds=("output-pca",))
    assert [option.rank for option in options] == [16, 32, 48]
    for option in options:
        assert option.macs < option.dense_macs == 64 * 64 * 9 * 14 * 14
        assert option.params < option.dense_params == 64 * 64 * 9
        assert option.rank is not None
        assert option.error == pytest.approx(1 - option.rank / 64)
        assert option.energy == pytest.approx(1 - option.error**2)
        assert option.name == f"output-pca:{option.rank}"
        assert (option.precision, option.ms, option.saved_ms, option.damage) == ("fp32", None, None, None)


@given(st.sampled_from([16, 32, 64, 256, 512]), st.sampled_from(list(KINDS)), st.integers(1, 10))
@settings(deadline=None, max_examples=60)
def test_of_any_shape_few_ranks_that_save_neither_too_little_nor_too_much(channels: int, kind: str, most: int) -> None:
    options = candidate_options(_layer(channels), block=8, kinds=(kind,), most=most)
    ranks = [option.rank for option in options]
    assert len(ranks) <= most
    assert ranks == sorted(set(ranks), key=lambda rank: rank or 0)
    for option in options:
        assert option.rank is not None
        assert option.rank % 8 == 0
        assert option.macs <= 0.95 * option.dense_macs
        assert option.macs >= 0.15 * option.dense_macs or len(options) == 1


def test_the_ranks_depend_on_the_shape_alone() -> None:
    """So that layers of one shape are timed once."""
    kinds = tuple(KINDS)
    one, other = (
        candidate_options(_layer(512, errors), block=16, kinds=kinds)
        for errors in (_falling, lambda kind, ranks: np.full(len(ranks), 0.5))
    )
    assert [option.name for option in one] == [option.name for option in other]
    assert [option.error for option in one] != [option.error for option in other]


def test_wide_layers_have_the_mildest_and_the_strongest_and_some_between() -> None:
    every = candidate_options(_layer(512), block=16, kinds=("output-pca",), most=100)
    few = candidate_options(_layer(512), block=16, kinds=("output-pca",), most=4)
    assert len(few) == 4 < len(every)
    assert (few[0], few[-1]) == (every[0], every[-1])


def test_the_errors_of_a_kind_are_asked_for_at_once() -> None:
    asked = []

    def errors(kind: str, ranks: Sequence[int]) -> NDArray[Any]:
        asked.append((kind, list(ranks)))
        return np.linspace(0.5, 0.1, len(ranks))

    options = candidate_options(_layer(errors=errors), block=16, kinds=("output-pca", "spatial-vertical"))
    assert [kind for kind, _ in asked] == ["output-pca", "spatial-vertical"]
    assert [(option.kind, option.rank) for option in options] == [
        (kind, rank) for kind, ranks in asked for rank in ranks
    ]
    assert [option.error for option in options if option.kind == "output-pca"] == pytest.approx([0.5, 0.3, 0.1])


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="no decomposition kind"):
        candidate_options(_layer(), block=16, kinds=("cp",))


def test_a_layer_narrower_than_the_block_has_no_options() -> None:
    assert candidate_options(_layer(8), block=16, kinds=("output-pca", "input-side")) == []


def test_pareto_keeps_what_nothing_beats() -> None:
    options = [_option(30, 0.3), _option(10, 0.5), _option(20, 0.6), _option(30, 0.2), _option(10, 0.5, rank=2)]
    assert pareto(options, lambda option: option.macs) == [options[1], options[3]]
    # By another cost others survive.
    timed = [option.timed(ms, 9.0) for option, ms in zip(options, (1.0, 5.0, 0.5, 2.0, 6.0), strict=True)]
    assert pareto(timed, lambda option: option.ms or 0.0) == [timed[2], timed[0], timed[3]]


def test_times_are_added_without_touching_the_rest() -> None:
    option = _option(30, 0.3)
    timed = option.timed(1.5, 2.0)
    assert (timed.ms, timed.dense_ms, timed.saved_ms) == (1.5, 2.0, 0.5)
    assert timed.timed(0, 0).macs == option.macs


def test_a_layer_that_keeps_its_shape_is_called_dense() -> None:
    option = Option("conv", None, None, 100, 100, 10, 10, 0.0, precision="int8")
    assert (option.name, option.energy) == ("dense", 1.0)
    assert Option("conv", "tucker2", 3, 1, 100, 1, 10, 1.5).energy == 0.0


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1)), max_size=12), st.floats(0, 0.5))
@settings(deadline=None)
def test_near_the_front_is_what_nothing_beats_by_more_than_the_margin(
    found: list[tuple[int, float]], margin: float
) -> None:
    options = [_option(macs, error, rank) for rank, (macs, error) in enumerate(found, start=1)]
    near = near_pareto(options, lambda option: option.macs, margin)
    for option in options:
        beaten = any(other.error <= option.error and (1 + margin) * other.macs < option.macs for other in options)
        assert (option in near) == (not beaten)
    assert set(pareto(options, lambda option: option.macs)) <= set(near)
