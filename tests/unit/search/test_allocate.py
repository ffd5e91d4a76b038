from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.search.allocate import Objective, Plan, by_energy, drop_unpaying, make_plan, plans
from ranksmith.search.candidates import Option

Options = dict[str, list[Option]]


def _option(node: str, rank: int, ms: float | None, error: float, *, dense_ms: float = 10.0) -> Option:
    return Option(node, "output-pca", rank, 10 * rank, 1000, 5 * rank, 500, error, ms, dense_ms)


@st.composite
def instances(draw: st.DrawFn) -> Options:
    """Few layers with few options; coarse numbers, so that ties are common."""
    found = {}
    for node in "abcd"[: draw(st.integers(1, 4))]:
        found[node] = [
            _option(node, rank, draw(st.integers(1, 12)) / 1.0, draw(st.integers(1, 8)) / 8.0)
            for rank in range(1, draw(st.integers(0, 3)) + 1)
        ]
    return found


def _brute_force(options: Options, target: float, objective: Objective) -> float:
    """Least damage of all combinations whose gain reaches the target."""
    best = float("inf")
    for combination in product(*([None, *offered] for offered in options.values())):
        plan = make_plan({option.node: option for option in combination if option})
        if _gain(plan, objective) >= target - 1e-9:
            best = min(best, plan.damage)
    return best


def _gain(plan: Plan, objective: Objective) -> float:
    if objective == "latency":
        assert plan.predicted_gain_ms is not None
        return plan.predicted_gain_ms
    if objective == "macs":
        return plan.macs_saved
    return sum(option.dense_params - option.params for option in plan.choices.values())


@given(instances(), st.sampled_from(["latency", "macs", "bytes"]), st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_every_plan_is_the_best_for_its_gain(options: Options, objective: Objective, points: int) -> None:
    found = plans(options, objective=objective, points=points)
    best_gain = sum(
        max([0.0, *(_gain(make_plan({node: option}), objective) for option in given)])
        for node, given in options.items()
    )
    assert len(found) <= points
    assert bool(found) == (best_gain > 0)
    targets = [best_gain * ((step + 1) / points) ** 2 for step in range(points)]
    expected = [_brute_force(options, target, objective) for target in targets]
    for target, damage in zip(targets, expected, strict=True):
        if best_gain > 0:
            assert any(
                plan.damage == pytest.approx(damage) and _gain(plan, objective) >= target - 1e-9 for plan in found
            )
    if found:
        assert _gain(found[-1], objective) == pytest.approx(best_gain)


@given(instances(), st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_damage_and_gain_grow_along_the_sweep(options: Options, points: int) -> None:
    found = plans(options, points=points)
    for mild, strong in pairwise(found):
        assert mild.damage <= strong.damage + 1e-12
        assert mild.choices != strong.choices
    for plan in found:
        assert list(plan.choices) == [node for node in options if node in plan.choices]
        assert all(option.ms is not None and option.ms < 10 for option in plan.choices.values())
    assert plans(options, points=points) == found


def test_large_continuous_instances_are_solved_as_milp_solves_them() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    options: Options = {}
    for node in (f"n{index}" for index in range(12)):
        steep, dense_ms = rng.uniform(1, 6), rng.uniform(0.5, 3)
        options[node] = [
            _option(
                node, rank, dense_ms * rank / 10 * rng.normal(1, 0.03), np.exp(-steep * rank / 10), dense_ms=dense_ms
            )
            for rank in range(1, 10)
        ]
    flat = [option for given in options.values() for option in given]
    gains = np.array([option.dense_ms - option.ms for option in flat])  # type: ignore[operator]
    layers = np.array([[option.node == node for option in flat] for node in options], float)
    target = float(np.sum(np.max(gains.reshape(12, 9), 1))) / 4
    middle = plans(options, points=2)[0]
    reference = optimize.milp(
        1e3 * np.array([option.error**2 for option in flat]),
        integrality=np.ones(len(flat), int),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(layers, ub=1.0),
            optimize.LinearConstraint(gains[None], lb=target),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert middle.predicted_gain_ms is not None
    assert middle.predicted_gain_ms >= target - 1e-9
    assert middle.damage == pytest.approx(reference.fun / 1e3, rel=1e-6)


def test_ties_go_to_the_first_layer() -> None:
    options = {node: [_option(node, 1, 5.0, 0.5)] for node in ("b", "a", "c")}
    found = plans(options, points=3)
    assert [list(plan.choices) for plan in found] == [["b"], ["b", "a"], ["b", "a", "c"]]


def test_predictions_of_a_plan_are_the_sums_of_its_options() -> None:
    plan = make_plan({"a": _option("a", 1, 5.0, 0.5), "b": _option("b", 2, 8.0, 0.1)})
    assert (plan.predicted_gain_ms, plan.macs_saved) == (7.0, 1970)
    assert plan.damage == pytest.approx(0.26)
    assert make_plan({"a": _option("a", 1, None, 0.5)}).predicted_gain_ms is None


def test_another_damage_model_can_be_handed_in() -> None:
    options = {"a": [_option("a", 1, 5.0, 0.1)], "b": [_option("b", 1, 5.0, 0.9)]}
    assert list(plans(options, points=2)[0].choices) == ["a"]
    reversed_ = plans(options, points=2, damage=lambda option: 1 - option.error)
    assert list(reversed_[0].choices) == ["b"]


def test_latency_needs_times_but_macs_do_not() -> None:
    options = {"a": [_option("a", 1, None, 0.1)]}
    with pytest.raises(ValueError, match="a: output-pca at rank 1 was not timed"):
        plans(options, points=2)
    assert plans(options, points=2, objective="macs")[0].predicted_gain_ms is None
    with pytest.raises(ValueError, match="0 plans"):
        plans(options, points=0)


def test_nothing_to_choose_from_gives_no_plans() -> None:
    assert plans({}, points=3) == []
    assert plans({"a": [], "b": [_option("b", 1, 11.0, 0.1)]}, points=3) == []


def test_options_that_do_not_pay_are_dropped_with_the_reason() -> None:
    options = {
        "a": [_option("a", 1, 5.0, 0.5), _option("a", 2, 9.8, 0.4), _option("a", 3, 11.0, 0.3)],
        "b": [_option("b", 1, None, 0.1)],
    }
    kept, dropped = drop_unpaying(options, 0.03)
    assert kept == {"a": options["a"][:1], "b": []}
    assert [entry.option for entry in dropped] == [*options["a"][1:], *options["b"]]
    assert "gains less than the 3%" in dropped[0].why
    assert "is not faster: 11 ms against 10 ms" in dropped[1].why
    assert "could not be timed" in dropped[2].why


def test_by_energy_takes_the_cheapest_option_that_retains_enough() -> None:
    options = {
        "a": [_option("a", 3, None, 0.3), _option("a", 5, None, 0.2), _option("a", 8, None, 0.1)],
        "b": [_option("b", 3, None, 0.6)],
    }
    found = by_energy(options, [0.5, 0.95, 0.9, 0.91, 0.999])
    # energies: a 0.91, 0.96 and 0.99, b 0.64
    assert [{node: option.rank for node, option in plan.choices.items()} for plan in found] == [
        {"a": 5},
        {"a": 3},
        {"a": 3, "b": 3},
    ]
    assert [plan.damage for plan in found] == sorted(plan.damage for plan in found)
    assert by_energy(options, [0.9999]) == []
