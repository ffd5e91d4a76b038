"""How what whole models show corrects the latency table of a family."""

from __future__ import annotations

import pytest

from ranksmith.search.candidates import Option
from ranksmith.workflow.compress.family import Family
from ranksmith.workflow.compress.profile import LayerTimes

NODES = ("a", "b", "c", "d")


def int8_family() -> Family:
    """Every Conv takes 1 ms in int8 and, by the table, 2 ms in float."""
    options = {
        node: [
            Option(node, None, None, 10, 10, 10, 10, 0.0, precision="int8", ms=1.0, dense_ms=2.0),
            Option(node, "output-pca", 8, 8, 10, 8, 10, 0.1, precision="int8", ms=0.8, dense_ms=2.0),
        ]
        for node in NODES
    }
    return Family("int8", b"", 4.0, dict.fromkeys(NODES, 1.0), options)


def corrected(family: Family, in_float: dict[str, float], conversions: float = 0.0) -> None:
    """By a model that leaves some Convs in float, which take there what `in_float` says."""
    choices = {node: option for node, option in family.base_choices.items() if node not in in_float}
    base = LayerTimes(dict.fromkeys(NODES, 1.0), rest_ms=1.0)
    family.correct(base, LayerTimes(dict.fromkeys(NODES, 1.0) | in_float, rest_ms=1.0 + conversions), choices)


def in_float(family: Family, node: str) -> float | None:
    return family.base_choices[node].dense_ms


def test_what_a_conv_takes_in_float_has_its_share_of_the_conversions() -> None:
    family = int8_family()
    corrected(family, {"a": 2.2, "b": 2.2}, conversions=0.6)
    assert in_float(family, "a") == pytest.approx(2.5)


def test_convs_never_seen_in_float_are_taken_to_be_off_as_the_others_are() -> None:
    family = int8_family()
    corrected(family, {"a": 3.0, "b": 3.0})
    assert in_float(family, "d") == pytest.approx(3.0)


def test_a_second_model_corrects_only_what_it_shows() -> None:
    family = int8_family()
    corrected(family, {"a": 3.0, "b": 3.0})
    corrected(family, {"a": 0.6})
    assert in_float(family, "a") == pytest.approx(0.6)
    assert in_float(family, "b") == pytest.approx(3.0)
    assert in_float(family, "d") == pytest.approx(3.0)
    corrected(family, {"c": 2.4})
    assert in_float(family, "c") == pytest.approx(2.4)
    assert in_float(family, "d") == pytest.approx(3.0)


def test_the_options_of_the_kind_that_was_seen_are_corrected() -> None:
    family = int8_family()
    choices = family.base_choices | {"a": family.options["a"][1]}
    base = LayerTimes(dict.fromkeys(NODES, 2.0), rest_ms=1.0)
    family.correct(base, LayerTimes(dict.fromkeys(NODES, 2.0) | {"a": 1.2}, rest_ms=1.0), choices)
    assert family.options["a"][1].ms == pytest.approx(0.6)
    assert family.options["b"][1].ms == pytest.approx(0.8)
