"""Labels go where they cover least."""

from __future__ import annotations

import pytest

from ranksmith.report.drawing import axes, canvas
from ranksmith.report.placing import Box, freest, marker, plotting_area, stroke, text_width


def test_a_label_goes_to_the_first_place_that_is_free() -> None:
    ax = axes(canvas(200, 100), 20, 10, 100, 50)
    places = [Box(0, 0, 40, 10), Box(50, 0, 90, 10), Box(50, 30, 90, 40)]
    assert freest(ax, places, []) == places[0]
    assert freest(ax, places, [Box(30, 5, 60, 20)]) == places[2]
    assert freest(ax, places, [Box(30, 5, 52, 20)]) == places[2]
    assert freest(ax, places[:2], [Box(30, 5, 52, 20)]) == places[1]


def test_a_label_beyond_the_axes_is_the_last_resort() -> None:
    ax = axes(canvas(200, 100), 20, 10, 100, 50)
    assert freest(ax, [Box(80, 0, 120, 10), Box(10, 0, 50, 10)], []) == Box(10, 0, 50, 10)


def test_places_are_points_from_the_corner_of_the_axes() -> None:
    ax = axes(canvas(200, 100), 20, 10, 100, 50)
    ax.set_xlim(0, 10)
    ax.set_ylim(0, 1)
    whole = plotting_area(ax)
    assert (whole.right, whole.top) == pytest.approx((100, 50))
    assert marker(ax, 5, 0.5).centre == pytest.approx((50, 25))
    line = stroke(ax, 2, 4, 0.5)
    assert (line.left, line.right, line.centre[1]) == pytest.approx((20, 40, 25))
    assert marker(ax, 5, 0.5, large=True).area > marker(ax, 5, 0.5).area


def test_a_longer_or_bolder_label_is_wider() -> None:
    assert 0 < text_width("ab", 12) < text_width("abc", 12) < text_width("abc", 12, bold=True)
