from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from ranksmith.search.allocate import (
    Objective,
    Plan,
    by_energy,
    bytes_saved,
    drop_unpaying,
    estimated,
    largest_gain,
    make_plan,
    plans,
)
from ranksmith.search.candidates import Option

Options = dict[str, list[Option]]


def _option(node: str, rank: int, ms: float | None, error: float, *, dense_ms: float = 10.0) -> Option:
    return Option(node, "output-pca", rank, 10 * rank, 1000, 5 * rank, 500, error, ms=ms, dense_ms=dense_ms)


def _int8(node: str, ms: float | None, damage: float | None = None, *, dense_ms: float = 10.0) -> Option:
    """The layer in its shape, on integers."""
    return Option(node, None, None, 1000, 1000, 500, 500, 0.0, "int8", ms, dense_ms, damage)


@st.composite
def instances(draw: st.DrawFn) -> Options:
    """Few layers with few options; coarse numbers, so that ties are common."""
    found = {}
    for node in "abcd"[: draw(st.integers(1, 4))]:
        found[node] = [
            _option(node, rank, draw(st.integers(1, 12)) / 1.0, draw(st.integers(1, 8)) / 8.0)
            for rank in range(1, draw(st.integers(0, 3)) + 1)
        ]
        if draw(st.booleans()):
            found[node].insert(0, _int8(node, draw(st.integers(1, 12)) / 1.0, draw(st.integers(0, 8)) / 8.0))
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
    return sum(bytes_saved(option) for option in plan.choices.values())


@given(instances(), st.sampled_from(["latency", "macs", "bytes"]), st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_every_plan_is_the_best_for_its_gain(options: Options, objective: Objective, points: int) -> None:
    found = plans(options, objective=objective, points=points)
    best_gain = sum(
        max([0.0, *(_gain(make_plan({node: option}), objective) for option in given)])
        for node, given in options.items()
    )
    assert largest_gain(options, objective) == pytest.approx(best_gain)
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
    with pytest.raises(ValueError, match="a: output-pca:1 was not timed"):
        plans(options, points=2)
    assert plans(options, points=2, objective="macs")[0].predicted_gain_ms is None
    with pytest.raises(ValueError, match="0 plans"):
        plans(options, points=0)


@given(instances(), st.integers(1, 6), st.integers(0, 40))
@settings(deadline=None, max_examples=30)
def test_a_sweep_starts_where_it_is_told_to(options: Options, points: int, start: float) -> None:
    """A few plans gain about `start`, all others more, up to the largest gain there is."""
    found = plans(options, points=points, start=start)
    best = largest_gain(options, "latency")
    start = min(start, best)
    assert len(found) <= points + (5 if start > 0 else 0)
    for mild, strong in pairwise(found):
        assert mild.damage <= strong.damage + 1e-12
    for plan in found:
        assert _gain(plan, "latency") >= 0.75 * start - 1e-9
        assert plan.damage == pytest.approx(_brute_force(options, _gain(plan, "latency"), "latency"))
    if best > 0:
        assert _gain(found[-1], "latency") == pytest.approx(best)
    if start > 0:
        assert any(
            plan.damage == pytest.approx(_brute_force(options, start, "latency"))
            and _gain(plan, "latency") >= start - 1e-9
            for plan in found
        )


def test_the_most_harmful_changes_of_precision_are_taken_back_first() -> None:
    options = {node: [_int8(node, 5.0, 0.01)] for node in "abcdefgh"}
    options["c"] = [_int8("c", 5.0, 0.9)]
    options["h"] = [_int8("h", 5.0, 0.5)]
    found = plans(options, points=1, start=largest_gain(options, "latency"))
    assert [set("abcdefgh") - set(plan.choices) for plan in found] == [{"c", "h"}, {"c"}, set()]


def test_a_layer_may_change_precision_or_shape_but_not_twice() -> None:
    options = {"a": [_int8("a", 4.0, 0.01), _option("a", 2, 6.0, 0.05), _option("a", 1, 2.0, 0.5)]}
    found = plans(options, points=8)
    assert [plan.choices["a"].name for plan in found] == ["output-pca:2", "dense", "output-pca:1"]
    assert found[1].macs_saved == 0
    assert found[1].predicted_gain_ms == 6.0


def test_the_damage_is_the_estimated_one_where_there_is_one() -> None:
    assert estimated(_option("a", 1, 5.0, 0.5)) == 0.25
    assert estimated(_int8("a", 5.0, 0.03)) == 0.03
    assert estimated(_int8("a", 5.0)) == 0.0
    assert make_plan({"a": _int8("a", 5.0, 0.03), "b": _option("b", 1, 5.0, 0.5)}).damage == pytest.approx(0.28)


def test_integers_are_a_quarter_of_the_bytes() -> None:
    assert bytes_saved(_int8("a", None)) == 4 * 500 - 500
    assert bytes_saved(_option("a", 1, None, 0.1)) == 4 * (500 - 5)
    options = {"a": [_int8("a", None, 0.01)], "b": [_option("b", 1, None, 0.5)]}
    assert [list(plan.choices) for plan in plans(options, points=3, objective="bytes")] == [["a"], ["b"], ["a", "b"]]
    # No multiply-adds are saved by a layer that keeps its shape.
    assert [list(plan.choices) for plan in plans(options, points=3, objective="macs")] == [["b"]]


def test_nothing_to_choose_from_gains_nothing() -> None:
    assert largest_gain({}, "latency") == 0.0
    assert largest_gain({"a": [_option("a", 1, 12.0, 0.1)]}, "latency") == 0.0
    assert plans({}, points=3) == []
    assert plans({}, points=3, start=1.0) == []
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
