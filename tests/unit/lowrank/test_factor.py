from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.convolution import ConvLayer
from ranksmith.errors import RankError, UsageError
from ranksmith.lowrank.columns import convolve, convolve_chain
from ranksmith.lowrank.compose import layer_error
from ranksmith.lowrank.factor import KINDS, Factorizer, factors, full_rank, output_projection
from ranksmith.lowrank.kinds import shared
from ranksmith.lowrank.spectra import relative_error, retained_energy
from ranksmith.lowrank.statistics import InputStatistics, OutputStatistics
from tests.unit.lowrank.cases import Case, activations, cases, make_layer, statistics_for

ALL = sorted(KINDS)
INPUT_KINDS = [name for name in ALL if KINDS[name].needs == "input"]


def _measured(layer: ConvLayer, chain: tuple[ConvLayer, ...], x: np.ndarray) -> float:
    """‖ŷ − y‖ / ‖y − ȳ‖ over all positions of x, in float64."""
    wide = x.astype(np.float64)
    exact = convolve(wide, layer)
    spread = exact - exact.mean((0, 2, 3), keepdims=True)
    return float(np.linalg.norm(convolve_chain(wide, chain) - exact) / np.linalg.norm(spread))


@pytest.mark.parametrize("kind", ALL)
@given(case=cases())
@settings(deadline=None, max_examples=60)
def test_full_rank_reproduces_the_layer_on_any_input(kind: str, case: Case) -> None:
    statistics = statistics_for(kind, case.layer, case.x)
    chain = factors(case.layer, kind, full_rank(case.layer, kind), statistics)
    assert case.error(chain, case.other) < 1e-4
    assert case.error(chain, case.x) < 1e-4


@pytest.mark.parametrize("kind", ALL)
@given(case=cases())
@settings(deadline=None, max_examples=15)
def test_any_rank_gives_the_layers_shape_type_and_finite_numbers(kind: str, case: Case) -> None:
    factorizer = Factorizer(case.layer, kind, statistics_for(kind, case.layer, case.x))
    exact = convolve(case.x, case.layer)
    for rank in range(1, factorizer.full_rank + 1):
        chain = factorizer.factors(rank)
        result = convolve_chain(case.x, chain)
        assert result.shape == exact.shape
        assert all(part.weight.dtype == np.float32 for part in chain)
        assert np.isfinite(result).all()
        assert all(part.bias is None for part in chain[:-1])
        assert np.isfinite(factorizer.error(rank))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("group", [1, 2])
def test_the_error_falls_with_the_rank_and_is_what_is_measured(kind: str, group: int) -> None:
    rng = np.random.default_rng(5)
    layer = make_layer(rng, 8, 6, group=group, strides=(1, 2), pads=(1, 0, 1, 2))
    x = activations(rng, 4, 6, (10, 11))
    inputs = InputStatistics(layer)
    inputs.update(x)
    statistics = statistics_for("output-pca" if kind == "weight-svd" else kind, layer, x)
    factorizer = Factorizer(layer, kind, statistics)
    errors = []
    for rank in range(1, factorizer.full_rank + 1):
        chain = factorizer.factors(rank, rounds=0)
        predicted = factorizer.error(rank)
        assert predicted == pytest.approx(_measured(layer, chain, x), rel=1e-3, abs=2e-5)
        assert predicted == pytest.approx(layer_error(layer, chain, inputs), rel=1e-3, abs=2e-5)
        errors.append(predicted)
    # Tucker-2 ties two ranks and weight SVD minimises something else: both may wobble, none may rise much.
    assert all(after <= before * 1.02 + 1e-6 for before, after in pairwise(errors))
    assert errors[0] > 0.1
    assert errors[-1] < 1e-4


@given(case=cases())
@settings(deadline=None, max_examples=30)
def test_output_pca_is_never_worse_than_weight_svd_on_its_data(case: Case) -> None:
    statistics = statistics_for("output-pca", case.layer, case.x)
    pca, svd = (Factorizer(case.layer, kind, statistics) for kind in ("output-pca", "weight-svd"))
    assert pca.full_rank == svd.full_rank
    for rank in range(1, pca.full_rank + 1):
        assert pca.error(rank) <= svd.error(rank) + 1e-6


@pytest.mark.parametrize("group", [1, 2])
def test_output_pca_error_is_the_spectrums(group: int) -> None:
    rng = np.random.default_rng(2)
    layer = make_layer(rng, 8, 6, group=group)
    statistics = statistics_for("output-pca", layer, activations(rng, 3, 6, (9, 9)))
    assert statistics is not None
    closed = relative_error(retained_energy(statistics.covariance, group))
    factorizer = Factorizer(layer, "output-pca", statistics)
    found = [factorizer.error(rank) for rank in range(1, factorizer.full_rank + 1)]
    np.testing.assert_allclose(found, closed[: len(found)], atol=1e-7)


def test_data_pays_on_inputs_of_the_same_kind() -> None:
    rng = np.random.default_rng(7)
    layer = make_layer(rng, 16, 16, pads=(1, 1, 1, 1))
    x = activations(rng, 8, 16, (12, 12))
    statistics = {kind: statistics_for(kind, layer, x[:6]) for kind in ALL}
    errors = {kind: _measured(layer, factors(layer, kind, 8, statistics[kind]), x[6:]) for kind in ALL}
    plain = _measured(layer, factors(layer, "tucker2", 8), x[6:])
    assert errors["output-pca"] < errors["weight-svd"]
    assert errors["tucker2"] < plain
    # The inputs are correlated between channels, which is what input-side sees.
    assert errors["input-side"] < errors["output-pca"]


@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_a_single_image_does_not_mislead_the_second_factor(kind: str) -> None:
    """Fewer positions than column entries: plain least squares would fit the image and fail on any other."""
    rng = np.random.default_rng(11)
    layer = make_layer(rng, 24, 24, pads=(1, 1, 1, 1))
    x = activations(rng, 12, 24, (8, 8))
    rank = full_rank(layer, kind) // 2
    few, many = (factors(layer, kind, rank, statistics_for(kind, layer, part)) for part in (x[:1], x[:8]))
    assert _measured(layer, few, x[8:]) < 1.5 * _measured(layer, many, x[8:])


@pytest.mark.parametrize("kind", ["weight-svd", "output-pca"])
@pytest.mark.parametrize("group", [1, 2])
def test_the_projection_gives_the_chains_output(kind: str, group: int) -> None:
    rng = np.random.default_rng(4)
    layer = make_layer(rng, 6, 4, group=group, pads=(1, 1, 1, 1))
    x = activations(rng, 2, 4, (7, 7))
    statistics = statistics_for(kind, layer, x)
    found = output_projection(layer, kind, 2, statistics)
    assert found is not None
    matrix, offset = found
    exact = convolve(x, layer)
    projected = np.einsum("po,nohw->nphw", matrix, exact) + offset[:, None, None]
    np.testing.assert_allclose(projected, convolve_chain(x, factors(layer, kind, 2, statistics)), atol=1e-4)


@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_kinds_on_the_input_are_no_projection(kind: str) -> None:
    layer = make_layer(np.random.default_rng(0), 4, 4)
    x = activations(np.random.default_rng(0), 1, 4, (6, 6))
    assert output_projection(layer, kind, 2, statistics_for(kind, layer, x)) is None


@pytest.mark.parametrize("kind", [*INPUT_KINDS, "output-pca"])
@given(rank=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=8)
def test_the_mean_of_the_output_is_kept_at_every_rank(kind: str, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = make_layer(rng, 5, 4, pads=(1, 1, 1, 1))
    x = activations(rng, 3, 4, (8, 8)).astype(np.float64)
    chain = factors(layer, kind, rank, statistics_for(kind, layer, x))
    means = [values.mean((0, 2, 3)) for values in (convolve_chain(x, chain), convolve(x, layer))]
    np.testing.assert_allclose(*means, atol=1e-5)


@pytest.mark.parametrize("kind", ["spatial-vertical", "spatial-horizontal"])
def test_a_spatial_split_strides_each_axis_once(kind: str) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 4, 4, (3, 5), strides=(2, 3), pads=(1, 2, 0, 1), dilations=(2, 1))
    x = activations(rng, 1, 4, (14, 14))
    first, second = factors(layer, kind, 3, statistics_for(kind, layer, x))
    vertical, horizontal = (first, second) if kind == "spatial-vertical" else (second, first)
    assert (vertical.kernel, horizontal.kernel) == ((3, 1), (1, 5))
    assert (vertical.strides, horizontal.strides) == ((2, 1), (1, 3))
    assert (vertical.pads, horizontal.pads) == ((1, 0, 0, 0), (0, 2, 0, 1))
    assert (vertical.dilations, horizontal.dilations) == ((2, 1), (1, 1))


def test_the_first_factor_of_a_strided_pointwise_conv_strides() -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 8, 8, (1, 1), strides=(2, 2))
    x = activations(rng, 1, 8, (8, 8))
    for kind in ALL:
        chain = factors(layer, kind, 2, statistics_for(kind, layer, x))
        assert [part.strides for part in chain] == [(2, 2)] + [(1, 1)] * (len(chain) - 1)


def test_weight_svd_adds_no_bias_where_there_was_none() -> None:
    layer = make_layer(np.random.default_rng(0), 4, 4, bias=False)
    assert factors(layer, "weight-svd", 2)[-1].bias is None


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("offset", [0, 1])
def test_a_rank_outside_its_bounds_is_refused(kind: str, offset: int) -> None:
    layer = make_layer(np.random.default_rng(0), 4, 4)
    rank = 0 if offset == 0 else full_rank(layer, kind) + 1
    with pytest.raises(RankError, match=f"rank {rank} is outside 1"):
        factors(layer, kind, rank)


def test_missing_or_wrong_statistics_are_refused() -> None:
    layer = make_layer(np.random.default_rng(0), 4, 4)
    with pytest.raises(UsageError, match="output-pca needs statistics of the layer's output"):
        factors(layer, "output-pca", 1)
    with pytest.raises(UsageError, match="input-side needs statistics of the layer's input"):
        factors(layer, "input-side", 1)
    with pytest.raises(UsageError, match="not of its input"):
        factors(layer, "output-pca", 1, InputStatistics(layer))
    with pytest.raises(UsageError, match="not of its output"):
        factors(layer, "tucker2", 1, OutputStatistics(4))
    with pytest.raises(UsageError, match="no decomposition kind named 'svd'") as caught:
        factors(layer, "svd", 1)
    assert "weight-svd" in str(caught.value.hint)


def test_without_statistics_errors_are_those_for_white_inputs() -> None:
    layer = make_layer(np.random.default_rng(0), 6, 4)
    flat = layer.weight.reshape(6, -1)
    values = np.linalg.svd(flat, compute_uv=False)
    expected = np.sqrt(np.sum(values[2:] ** 2) / np.sum(values**2))
    assert Factorizer(layer, "weight-svd").error(2) == pytest.approx(expected, abs=1e-6)


def _bytes(chain: tuple[ConvLayer, ...]) -> list[bytes]:
    return [array.tobytes() for part in chain for array in (part.weight, part.bias) if array is not None]


@pytest.mark.parametrize("kind", INPUT_KINDS)
@pytest.mark.parametrize("group", [1, 2])
def test_factors_do_not_depend_on_what_else_was_asked_for(kind: str, group: int) -> None:
    rng = np.random.default_rng(2)
    layer = make_layer(rng, 48, 32, pads=(1, 1, 1, 1), group=group)
    statistics = statistics_for(kind, layer, activations(rng, 6, 32, (10, 10)))
    used = Factorizer(layer, kind, statistics)
    full = used.full_rank
    used.errors([full, 3])
    for rank in (2, full // 3, full // 2, full):
        assert _bytes(used.factors(rank)) == _bytes(Factorizer(layer, kind, statistics).factors(rank))


@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_one_system_serves_every_rank_that_saves_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, factorise = [], shared.factorise
    monkeypatch.setattr(shared, "factorise", lambda *given: made.append(len(given[0])) or factorise(*given))
    rng = np.random.default_rng(2)
    layer = make_layer(rng, 16, 16, pads=(1, 1, 1, 1))
    factorizer = Factorizer(layer, kind, statistics_for(kind, layer, activations(rng, 6, 16, (10, 10))))
    parameters = {rank: sum(part.weight.size for part in factorizer.factors(rank)) for rank in range(1, 17)}
    made.clear()
    saving = [rank for rank, count in parameters.items() if count <= layer.weight.size]
    again = Factorizer(layer, kind, factorizer.statistics)
    again.errors(saving[:2])
    again.errors(saving)
    for rank in saving:
        again.factors(rank)
    assert len(made) == 1


@pytest.mark.parametrize("group", [1, 2])
def test_factorizers_beside_each_other_share_what_they_made_of_the_statistics(
    group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    layer = make_layer(rng, 12, 12, pads=(1, 1, 1, 1), group=group)
    statistics = statistics_for("input-side", layer, activations(rng, 6, 12, (10, 10)))
    assert isinstance(statistics, InputStatistics)
    expected = [_bytes(Factorizer(layer, kind, statistics).factors(3)) for kind in INPUT_KINDS]
    asked, moments = [], statistics.moments
    monkeypatch.setattr(statistics, "moments", lambda own=0: asked.append(own) or moments(own))
    beside: Factorizer | None = None
    for kind, alone in zip(INPUT_KINDS, expected, strict=True):
        beside = Factorizer(layer, kind, statistics, beside=beside)
        assert _bytes(beside.factors(3)) == alone
    assert asked == list(range(group))


@pytest.mark.parametrize("kind", INPUT_KINDS)
@pytest.mark.parametrize("dead", [0, 3])
def test_either_root_of_the_weight_makes_the_same_factors(
    kind: str, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Cholesky factor where the weight is well conditioned, else the root within its range."""
    rng = np.random.default_rng(6)
    layer = make_layer(rng, 16, 12, pads=(1, 1, 1, 1))
    layer.weight[:, :dead] = 0
    x = activations(rng, 6, 12, (10, 10))
    statistics = statistics_for(kind, layer, x)
    found = convolve_chain(x, Factorizer(layer, kind, statistics).factors(4))
    monkeypatch.setattr(shared, "_WELL", 1.0)
    other = convolve_chain(x, Factorizer(layer, kind, statistics).factors(4))
    np.testing.assert_allclose(found, other, atol=1e-4 * float(np.abs(found).max()))
