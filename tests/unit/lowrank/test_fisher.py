"""Fisher matrices streamed from gradients."""

from __future__ import annotations

import numpy as np
import pytest

from ranksmith.errors import ModelError
from ranksmith.lowrank import fisher
from ranksmith.lowrank.fisher import GradientStatistics


def _gradients(count: int = 5, channels: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, channels, 3, 6)).astype(np.float32)


def _seen(*parts: np.ndarray) -> GradientStatistics:
    statistics = GradientStatistics(4)
    for part in parts:
        statistics.update(part)
    return statistics


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_sum_of_outer_products_over_images_and_positions(
    dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = _gradients().astype(dtype)
    expected = np.einsum("nchw,ndhw->cd", g.astype(np.float64), g.astype(np.float64))
    np.testing.assert_allclose(_seen(g).fisher, expected, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(fisher, "_BLOCK_POSITIONS", 7)
    np.testing.assert_allclose(_seen(g).fisher, expected, rtol=1e-5, atol=1e-5)
    assert _seen(g).images == 5


def test_streaming_merging_and_saving_keep_it() -> None:
    g = _gradients()
    whole = _seen(g)
    merged = _seen(g[:2])
    merged.merge(_seen(g[2:]))
    loaded = GradientStatistics.from_arrays(merged.to_arrays())
    assert loaded.images == merged.images == 5
    np.testing.assert_allclose(_seen(g[:1], g[1:4], g[4:4], g[4:]).fisher, whole.fisher, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(merged.fisher, whole.fisher, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(loaded.fisher, merged.fisher)
    loaded.update(g)
    np.testing.assert_allclose(loaded.fisher, 2 * whole.fisher, rtol=1e-5, atol=1e-5)


def test_the_weighting_does_not_depend_on_the_scale_of_gradients() -> None:
    small, large = _seen(1e-9 * _gradients()), _seen(_gradients())
    np.testing.assert_allclose(small.weighting(), large.weighting(), rtol=1e-4, atol=1e-5)
    weighting = large.weighting()
    np.testing.assert_array_equal(weighting, weighting.T)
    assert np.trace(weighting) == pytest.approx(4)
    expected = 0.9 * large.fisher * 4 / np.trace(large.fisher) + 0.1 * np.eye(4)
    np.testing.assert_allclose(weighting, expected)
    np.testing.assert_array_equal(large.weighting(1.0), np.eye(4))


def test_few_images_and_dead_channels_leave_it_positive_definite() -> None:
    g = _gradients(1)[:, :, :1, :1].copy()
    g[:, 2] = 0
    assert np.linalg.eigvalsh(_seen(g).weighting()).min() == pytest.approx(0.1)
    np.testing.assert_array_equal(_seen(0 * g).weighting(), np.eye(4))
    np.testing.assert_array_equal(GradientStatistics(4).weighting(), np.eye(4))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[N, 4, H, W\]"):
        _seen(_gradients(channels=3))
    with pytest.raises(ValueError, match="3 channels cannot join 4"):
        _seen().merge(GradientStatistics(3))
    bad = _gradients()
    bad[0, 1, 0, 0] = np.inf
    with pytest.raises(ModelError, match="not finite"):
        _seen(bad)
