from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.search.damage import DamageCurve

ERRORS = st.floats(1e-3, 1.5)
MEASURED = st.lists(st.tuples(ERRORS, st.floats(1e-6, 3.0)), min_size=1, max_size=4, unique_by=lambda point: point[0])


@given(MEASURED, st.lists(st.floats(0, 3), min_size=2, max_size=8))
@settings(deadline=None, max_examples=60)
def test_more_error_never_does_less_damage(points: list[tuple[float, float]], errors: list[float]) -> None:
    """Whatever noise the measured points hold."""
    curve = DamageCurve(points)
    found = [curve(error) for error in sorted(errors)]
    assert all(damage >= 0 for damage in found)
    for less, more in pairwise(found):
        assert less <= more * (1 + 1e-9)


@given(MEASURED)
@settings(deadline=None, max_examples=60)
def test_what_was_measured_is_what_is_estimated(points: list[tuple[float, float]]) -> None:
    rising = list(zip(sorted(error for error, _ in points), sorted(damage for _, damage in points), strict=True))
    curve = DamageCurve(rising)
    for error, damage in rising:
        assert curve(error) == pytest.approx(damage, rel=1e-6)


def test_beyond_the_measured_points_damage_grows_as_the_square() -> None:
    curve = DamageCurve([(0.2, 0.01), (0.4, 0.08)])
    assert curve(0.1) == pytest.approx(0.01 / 4)
    assert curve(0.8) == pytest.approx(0.08 * 4)
    # Between them in log-log: here damage grows as the cube.
    assert curve(0.3) == pytest.approx(0.01 * 1.5**3)


def test_the_order_of_the_points_does_not_matter() -> None:
    points = [(0.4, 0.08), (0.1, 0.001), (0.2, 0.01)]
    errors = np.linspace(0.01, 1, 20)
    assert [DamageCurve(points)(error) for error in errors] == [DamageCurve(sorted(points))(error) for error in errors]


def test_no_error_does_no_damage() -> None:
    for curve in (DamageCurve(), DamageCurve([(0.2, 0.01)])):
        assert curve(0.0) == 0.0
        assert curve(-1e-9) == 0.0


def test_where_nothing_was_measured_the_squared_error_stands_in() -> None:
    assert DamageCurve()(0.5) == pytest.approx(0.1 * 0.25)
    assert DamageCurve(default=2.0)(0.5) == pytest.approx(0.5)
    # A point at no error says nothing about a curve through the origin.
    assert DamageCurve([(0.0, 0.3)], default=2.0)(0.5) == pytest.approx(0.5)


def test_a_divergence_of_nothing_is_rounding_not_a_free_lunch() -> None:
    curve = DamageCurve([(0.2, 0.0)])
    assert 0 < curve(0.2) < 1e-8
    assert curve(0.4) == pytest.approx(4 * curve(0.2))
    assert DamageCurve([(0.2, -1e-12)])(0.2) == curve(0.2)


def test_sensitivity_is_nats_per_squared_error() -> None:
    assert DamageCurve().sensitivity is None
    assert DamageCurve([(0.0, 1.0)]).sensitivity is None
    assert DamageCurve([(0.5, 0.1)]).sensitivity == pytest.approx(0.4)
    assert DamageCurve([(0.5, 0.1), (0.1, 0.001)]).sensitivity == pytest.approx(np.sqrt(0.4 * 0.1))
