"""Fitting the last factor of a chain again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank import refit
from ranksmith.lowrank.columns import columns, convolve
from ranksmith.lowrank.refit import Refit, output_error

Array = NDArray[np.float64]


def layer_of(rng: np.random.Generator, *, outside: int = 6, inside: int = 4, group: int = 1) -> ConvLayer:
    weight = rng.standard_normal((outside, inside // group, 1, 3))
    return ConvLayer(weight, rng.standard_normal(outside), pads=(0, 1, 0, 1), group=group)


def inputs(rng: np.random.Generator, images: int = 12, channels: int = 4) -> Array:
    return rng.standard_normal((images, channels, 5, 6)) + 0.5


def bias_of(layer: ConvLayer) -> Array:
    assert layer.bias is not None
    return layer.bias.astype(np.float64)


def moved(rng: np.random.Generator, layer: ConvLayer, size: float = 0.3) -> ConvLayer:
    weight = layer.weight + size * rng.standard_normal(layer.weight.shape)
    return replace(layer, weight=weight, bias=bias_of(layer) + size * rng.standard_normal(layer.out_channels))


def energy(layer: ConvLayer, z: Array, target: Array, *, relu: bool = False) -> float:
    return float(np.square(output_error(target, convolve(z, layer), relu=relu)).sum())


def test_only_what_passes_the_relu_is_an_error() -> None:
    target, current = np.array([2.0, 2.0, -1.0, -1.0]), np.array([1.0, -1.0, 0.5, -5.0])
    np.testing.assert_array_equal(output_error(target, current, relu=True), [1.0, 3.0, -0.5, 0.0])
    np.testing.assert_array_equal(output_error(target, current, relu=False), [1.0, 3.0, -1.5, 4.0])


@pytest.mark.parametrize("group", [1, 2])
def test_weights_that_explain_the_target_are_found(group: int) -> None:
    rng = np.random.default_rng(0)
    truth = layer_of(rng, group=group)
    start = moved(rng, truth)
    fitting = Refit(start)
    for _ in range(3):
        z = inputs(rng)
        fitting.update(z, convolve(z, truth))
    found = fitting.solve()
    assert found is not None
    better, ratio = found
    assert ratio < 1e-4
    # The smallest ridge, 1e-3, is what is left.
    np.testing.assert_allclose(better.weight, truth.weight, atol=2e-3)
    np.testing.assert_allclose(bias_of(better), bias_of(truth), atol=2e-3)


def test_what_the_shortcut_has_too_much_is_made_good() -> None:
    rng = np.random.default_rng(1)
    layer, z = layer_of(rng), inputs(rng)
    shortcut = rng.standard_normal((12, 6, 5, 6))
    fitting = Refit(layer)
    fitting.update(z, convolve(z, layer) + shortcut, shortcut + 0.5)
    found = fitting.solve()
    assert found is not None
    np.testing.assert_allclose(bias_of(found[0]), bias_of(layer) - 0.5, atol=1e-9)


def test_nothing_changes_where_the_relu_takes_all() -> None:
    rng = np.random.default_rng(2)
    layer, z = layer_of(rng), inputs(rng)
    target = convolve(z, layer)
    low = replace(layer, bias=bias_of(layer) - target.max() - 1)
    fitting = Refit(low)
    fitting.update(z, -np.abs(target) - 1, relu=True)
    assert fitting.solve() is None


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), size=st.floats(0.01, 2.0), relu=st.booleans())
def test_the_error_on_the_images_it_saw_never_rises(seed: int, size: float, relu: bool) -> None:
    rng = np.random.default_rng(seed)
    truth = layer_of(rng)
    start, z = moved(rng, truth, size), inputs(rng)
    target = convolve(z, truth) + size * rng.standard_normal((12, 6, 5, 6))
    fitting = Refit(start)
    fitting.update(z, target, relu=relu)
    found = fitting.solve()
    if found is not None:
        assert found[1] < 1
        assert energy(found[0], z, target, relu=relu) <= energy(start, z, target, relu=relu) * (1 + 1e-9)


def test_a_group_is_fitted_as_if_it_were_alone() -> None:
    rng = np.random.default_rng(3)
    layer, z = layer_of(rng, group=2), inputs(rng)
    target = convolve(z, layer_of(rng, group=2))
    whole = Refit(layer)
    whole.update(z, target)
    together = whole.solve()
    assert together is not None
    for part in (0, 1):
        own, seen = slice(3 * part, 3 * part + 3), slice(2 * part, 2 * part + 2)
        alone = Refit(replace(layer, weight=layer.weight[own], bias=bias_of(layer)[own], group=1))
        alone.update(z[:, seen], target[:, own])
        found = alone.solve()
        assert found is not None
        np.testing.assert_allclose(together[0].weight[own], found[0].weight, atol=1e-12)


def test_batches_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    layer, z = layer_of(rng), inputs(rng)
    target = convolve(z, layer_of(rng))
    found = []
    for cuts in ([], [5], [1, 2, 7]):
        fitting = Refit(layer)
        for images in np.split(np.arange(12), cuts):
            fitting.update(z[images], target[images])
        assert fitting.images == 12
        found.append(fitting.solve())
    for other in found[1:]:
        assert found[0] is not None
        assert other is not None
        np.testing.assert_allclose(found[0][0].weight, other[0].weight, atol=1e-10)


def test_noise_is_not_learnt() -> None:
    """The change that does best on the other half of the images may be to the bias, or none, but no fit to noise."""
    rng = np.random.default_rng(5)
    layer = layer_of(rng, inside=64)
    z = inputs(rng, 2, 64)
    target = convolve(z, layer) + rng.standard_normal((2, 6, 5, 6))
    fitting = Refit(layer)
    fitting.update(z, target)
    found = fitting.solve()
    if found is not None:
        np.testing.assert_array_equal(found[0].weight, layer.weight)


def test_one_image_cannot_be_checked_so_nothing_changes() -> None:
    rng = np.random.default_rng(6)
    layer, z = layer_of(rng), inputs(rng, 1)
    fitting = Refit(layer)
    fitting.update(z, convolve(z, layer) + 1)
    assert fitting.solve() is None


def test_a_factor_with_too_many_columns_gets_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "_MOST_COLUMNS", 8)
    rng = np.random.default_rng(7)
    layer = replace(layer_of(rng), bias=None)
    z = inputs(rng)
    fitting = Refit(layer)
    fitting.update(z, convolve(z, layer) + 2)
    found = fitting.solve()
    assert found is not None
    np.testing.assert_array_equal(found[0].weight, layer.weight)
    np.testing.assert_allclose(bias_of(found[0]), np.full(6, 2.0), atol=1e-9)


@pytest.mark.parametrize("size", [(5, 6), (14, 14), (28, 28), (56, 56), (57, 1), (30, 40)])
def test_of_an_image_a_bounded_number_of_different_positions_is_seen(size: tuple[int, int]) -> None:
    seen = refit._positions(size, np.arange(64))
    least = min(size[0] * size[1], refit._MOST_POSITIONS // 2)
    assert least <= seen.shape[1] <= refit._MOST_POSITIONS
    assert all(len(set(row)) == len(row) for row in seen)
    assert seen.min() >= 0
    assert seen.max() < size[0] * size[1]
    # Every column of every image, and over the images of either fold nearly every position.
    assert all(set(row % size[1]) == set(range(size[1])) for row in seen if size[1] < 100)
    for fold in (0, 1):
        assert len(np.unique(seen[fold::2])) > 0.9 * size[0] * size[1]


@pytest.mark.parametrize("group", [1, 2])
def test_columns_at_some_positions_are_those_of_all_columns(group: int) -> None:
    rng = np.random.default_rng(8)
    weight = rng.standard_normal((6, 4 // group, 3, 2))
    layer = ConvLayer(weight, None, strides=(2, 1), pads=(1, 0, 2, 1), dilations=(1, 2), group=group)
    z = rng.standard_normal((3, 4, 9, 8))
    oh, ow = layer.output_size(9, 8)
    seen = np.stack([rng.permutation(oh * ow)[:7] for _ in range(3)])
    expected = columns(z, layer).reshape(group, -1, 3, oh * ow)
    expected = np.stack([expected[:, :, image, seen[image]] for image in range(3)], axis=2)
    np.testing.assert_array_equal(refit._columns(z, layer, seen), expected.reshape(group, -1, 21))


def test_many_positions_are_sampled_alike_however_the_images_are_batched() -> None:
    rng = np.random.default_rng(9)
    truth = layer_of(rng)
    start, z = moved(rng, truth), rng.standard_normal((8, 4, 40, 30))
    target, shortcut = convolve(z, truth), rng.standard_normal((8, 6, 40, 30))
    found = []
    for cuts in ([], [3]):
        fitting = Refit(start)
        for images in np.split(np.arange(8), cuts):
            fitting.update(z[images], target[images] + shortcut[images], shortcut[images])
        found.append(fitting.solve())
    assert found[0] is not None
    assert found[1] is not None
    np.testing.assert_allclose(found[0][0].weight, truth.weight, atol=2e-3)
    np.testing.assert_allclose(found[0][0].weight, found[1][0].weight, atol=1e-10)


def test_each_way_to_change_is_scored_by_what_it_leaves_on_images_left_out() -> None:
    rng = np.random.default_rng(10)
    halves = [(rng.standard_normal((5, 40)) + 1, rng.standard_normal((3, 40)) - 1) for _ in range(2)]
    fitted, left_out = refit._Sums(), refit._Sums()
    fitted.add(*halves[0])
    left_out.add(*halves[1])
    z, e = halves[1]
    expected = []
    for ridge in (None, *refit._RIDGES):
        change = refit._change(fitted, ridge)
        expected.append(np.square(e - change[:, :-1] @ z - change[:, -1:]).sum())
    np.testing.assert_allclose(refit._scores(fitted, left_out), expected, rtol=1e-5)
