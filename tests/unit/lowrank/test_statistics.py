from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ranksmith.convolution import ConvLayer
from ranksmith.errors import ModelError
from ranksmith.lowrank.columns import columns, convolve
from ranksmith.lowrank.statistics import InputStatistics, OutputStatistics, enough_positions
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
def test_a_part_of_the_positions_keeps_the_moments_close(need: str) -> None:
    rng = np.random.default_rng(3)
    layer, x = make_layer(rng, 3, 3, pads=(1, 1, 1, 1)), activations(rng, 40, 3, (16, 16))

    def seen(cap: int | None) -> InputStatistics | OutputStatistics:
        if need == "input":
            statistics: InputStatistics | OutputStatistics = InputStatistics(layer, positions_per_image=cap)
        else:
            statistics = OutputStatistics(3, positions_per_image=cap)
        for start in range(0, 40, 8):
            statistics.update(x[start : start + 8])
        return statistics

    full, capped = seen(None), seen(64)
    # What was passed over counts: its neighbours spoke for it.
    assert capped.count == full.count == full.taken == 40 * 256
    # Every third, because every fourth of a width of 16 would always be the same columns.
    assert capped.taken == sum(len(range(image % 3, 256, 3)) for image in range(40))
    assert np.linalg.norm(capped.covariance - full.covariance) < 0.1 * np.linalg.norm(full.covariance)


def test_updating_does_not_change_the_activations() -> None:
    layer, x = _two_sets()
    before = x.copy()
    InputStatistics(layer).update(x)
    OutputStatistics(6).update(x)
    pointwise = ConvLayer(np.ones((2, 6, 1, 1), np.float32))
    InputStatistics(pointwise).update(x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("need", ["input", "output"])
def test_merging_and_saving_parts_of_the_positions(need: str) -> None:
    layer, x = _two_sets()
    values = x if need == "input" else convolve(x, layer)

    def seen(*parts: slice) -> InputStatistics | OutputStatistics:
        made = (
            InputStatistics(layer, positions_per_image=5)
            if need == "input"
            else OutputStatistics(4, positions_per_image=5)
        )
        for part in parts:
            made.update(values[part])
        return made

    # Which positions are taken depends on an image's number, so both parts begin with one of the same phase.
    whole, merged = seen(slice(0, 7)), seen(slice(0, 5))
    step = 28 // 5
    assert whole.taken == sum(len(range(image % step, 28, step)) for image in range(7))
    merged.merge(seen(slice(5, 7)))
    assert (merged.count, merged.taken, merged.images) == (whole.count, whole.taken, whole.images) == (196, 40, 7)
    np.testing.assert_allclose(merged.covariance, whole.covariance, atol=1e-5)
    arrays = whole.to_arrays()
    again = InputStatistics.from_arrays(layer, arrays) if need == "input" else OutputStatistics.from_arrays(arrays)
    assert (again.count, again.taken) == (196, 40)
    np.testing.assert_array_equal(again.covariance, whole.covariance)


def test_few_positions_wait_for_more_and_are_not_lost() -> None:
    rng = np.random.default_rng(4)
    layer, x = ConvLayer(np.ones((2, 200, 1, 1), np.float32)), activations(rng, 21, 200, (2, 2))
    whole, single = InputStatistics(layer), InputStatistics(layer)
    whole.update(x)
    for image in x:
        single.update(image[None])
    assert single.count == 84
    # A product of 200 × 200 waits for 50 positions: 13 images of 4 have been added, and 8 images wait.
    assert single.taken == 52
    np.testing.assert_allclose(single.covariance, whole.covariance, rtol=1e-4, atol=1e-4)
    assert single.taken == 84
    x[20, 5, 1, 1] = np.nan
    late = InputStatistics(layer)
    late.update(x[20:])
    with pytest.raises(ModelError, match="not finite"):
        late.settle()


def test_enough_positions_are_196_of_an_image_or_20_times_the_entries_of_them_all() -> None:
    assert enough_positions(576, 128) == 196
    assert enough_positions(4608, 128) == 720
    assert enough_positions(576, 8) == 1440
    assert enough_positions(64, 0) == 1280
