from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ranksmith.convolution import ConvLayer
from ranksmith.errors import ModelError
from ranksmith.lowrank.columns import columns, convolve
from ranksmith.lowrank.statistics import InputStatistics, OutputStatistics
from tests.unit.lowrank.cases import Case, activations, cases, make_layer


def _two_sets() -> tuple[ConvLayer, np.ndarray]:
    rng = np.random.default_rng(1)
    return make_layer(rng, 4, 6, group=2, strides=(2, 1), pads=(1, 1, 0, 1)), activations(rng, 7, 6, (8, 7))


@given(cases())
@settings(deadline=None, max_examples=30)
def test_input_moments_are_those_of_the_columns(case: Case) -> None:
    statistics = InputStatistics(case.layer)
    statistics.update(case.x)
    expected = columns(case.x.astype(np.float64), case.layer)
    assert statistics.count == expected.shape[2]
    scale = float(np.max(np.abs(expected))) + 1e-9
    for group in range(case.layer.group):
        np.testing.assert_allclose(statistics.mean[group], expected[group].mean(1), atol=1e-6 * scale)
        covariance = np.cov(expected[group], bias=True).reshape(len(expected[group]), -1)
        np.testing.assert_allclose(statistics.covariance[group], covariance, atol=1e-5 * scale**2)


def test_output_moments_are_exact_even_where_the_mean_dwarfs_the_spread() -> None:
    rng = np.random.default_rng(0)
    y = (1000 + rng.standard_normal((5, 3, 6, 7))).astype(np.float32)
    statistics = OutputStatistics(3)
    statistics.update(y)
    flat = y.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(statistics.mean, flat.mean(1), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(flat, bias=True), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("need", ["input", "output"])
def test_streaming_equals_one_shot_and_merging_in_any_order(need: str) -> None:
    layer, x = _two_sets()
    values = x if need == "input" else convolve(x, layer)

    def seen(*parts: slice) -> InputStatistics | OutputStatistics:
        made = InputStatistics(layer) if need == "input" else OutputStatistics(layer.out_channels)
        for part in parts:
            made.update(values[part])
        return made

    whole = seen(slice(0, 7))
    streamed = seen(slice(0, 1), slice(1, 4), slice(4, 4), slice(4, 7))
    left = seen(slice(0, 2))
    left.merge(seen(slice(2, 5)))
    left.merge(seen(slice(5, 7)))
    inner = seen(slice(2, 5))
    inner.merge(seen(slice(5, 7)))
    right = seen()
    right.merge(seen())
    right.merge(seen(slice(0, 2)))
    right.merge(inner)
    for other in (streamed, left, right):
        assert (other.count, other.images) == (whole.count, whole.images)
        np.testing.assert_allclose(other.mean, whole.mean, atol=1e-6)
        np.testing.assert_allclose(other.covariance, whole.covariance, atol=1e-5)


def test_saved_statistics_go_on_where_they_stopped() -> None:
    layer, x = _two_sets()
    inputs, outputs = InputStatistics(layer), OutputStatistics(4)
    inputs.update(x[:3])
    outputs.update(convolve(x[:3], layer))
    again = InputStatistics.from_arrays(layer, inputs.to_arrays())
    outputs_again = OutputStatistics.from_arrays(outputs.to_arrays())
    for statistics in (inputs, again):
        statistics.update(x[3:])
    for statistics in (outputs, outputs_again):
        statistics.update(convolve(x[3:], layer))
    np.testing.assert_array_equal(again.covariance, inputs.covariance)
    np.testing.assert_array_equal(outputs_again.covariance, outputs.covariance)
    assert (again.count, again.images) == (inputs.count, inputs.images)


def test_statistics_saved_for_another_layer_are_refused() -> None:
    layer, x = _two_sets()
    statistics = InputStatistics(layer)
    statistics.update(x)
    other = make_layer(np.random.default_rng(0), 4, 6)
    with pytest.raises(ValueError, match="saved shift has shape"):
        InputStatistics.from_arrays(other, statistics.to_arrays())
    with pytest.raises(ValueError, match="cannot join"):
        statistics.merge(InputStatistics(other))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    layer, x = _two_sets()
    x[1, 2, 3, 3] = bad
    with pytest.raises(ModelError, match="activations are not finite"):
        InputStatistics(layer).update(x)
    if not np.isfinite(bad):
        with pytest.raises(ModelError, match="activations are not finite"):
            OutputStatistics(6).update(x)


def test_values_of_another_shape_are_refused() -> None:
    layer, x = _two_sets()
    with pytest.raises(ValueError, match=r"\[N, 6, H, W\] is expected"):
        InputStatistics(layer).update(x[:, :3])
    with pytest.raises(ValueError, match=r"\[N, 4, H, W\] is expected"):
        OutputStatistics(4).update(x)


def test_moments_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="seen no activations"):
        _ = OutputStatistics(2).mean


def test_half_precision_activations_are_summed_in_single() -> None:
    layer, x = _two_sets()
    halved = x.astype(np.float16)
    half, single = InputStatistics(layer), InputStatistics(layer)
    half.update(halved)
    single.update(halved.astype(np.float32))
    np.testing.assert_array_equal(half.covariance, single.covariance)


@pytest.mark.parametrize("need", ["input", "output"])
def test_a_cap_on_positions_keeps_the_moments_close(need: str) -> None:
    rng = np.random.default_rng(3)
    layer, x = make_layer(rng, 3, 3, pads=(1, 1, 1, 1)), activations(rng, 40, 3, (16, 16))

    def seen(cap: int | None) -> InputStatistics | OutputStatistics:
        if need == "input":
            statistics: InputStatistics | OutputStatistics = InputStatistics(layer, max_positions_per_image=cap)
        else:
            statistics = OutputStatistics(3, max_positions_per_image=cap)
        for start in range(0, 40, 8):
            statistics.update(x[start : start + 8])
        return statistics

    full, capped = seen(None), seen(64)
    assert capped.count == full.count // 4 == 40 * 64
    assert np.linalg.norm(capped.covariance - full.covariance) < 0.1 * np.linalg.norm(full.covariance)


def test_updating_does_not_change_the_activations() -> None:
    layer, x = _two_sets()
    before = x.copy()
    InputStatistics(layer).update(x)
    OutputStatistics(6).update(x)
    pointwise = ConvLayer(np.ones((2, 6, 1, 1), np.float32))
    InputStatistics(pointwise).update(x)
    np.testing.assert_array_equal(x, before)
