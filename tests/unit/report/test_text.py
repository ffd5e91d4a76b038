"""Numbers and names as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.report import text


def plain(shown: str) -> str:
    """With ordinary spaces for the no-break ones."""
    return shown.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.ratio(1.3621), "1.36×"),
        (text.percent(0.9774), "97.7 %"),
        (text.percent(0.99999), "99.9 %"),
        (text.percent(1.0), "100.0 %"),
        (text.percent(0.999, 0), "99 %"),
        (text.percent(None), "–"),
        (text.points(-0.751), "−0.75 pp"),
        (text.points(-0.001), "0.00 pp"),
        (text.interval(-0.75, 1.5), "−0.75 to 1.50"),
        (text.milliseconds(345.6), "346 ms"),
        (text.milliseconds(46.91), "46.9 ms"),
        (text.milliseconds(1.234), "1.23 ms"),
        (text.milliseconds(0.0561), "0.056 ms"),
        (text.milliseconds(None), "–"),
        (text.nats(0.0), "0"),
        (text.nats(2e-10), "< 0.0001"),
        (text.nats(0.01123), "0.011"),
        (text.nats(0.2), "0.20"),
        (text.nats(12.3), "12"),
        (text.millinats(0.0), "0 mnat"),
        (text.millinats(0.0000421), "0.042 mnat"),
        (text.millinats(0.00132), "1.32 mnat"),
        (text.millinats(0.0561), "56.1 mnat"),
        (text.millinats(None), "–"),
        (text.count(3_857_973_248), "3.86 G"),
        (text.count(115_605_504), "116 M"),
        (text.count(1_234), "1.23 k"),
        (text.count(17), "17"),
        (text.count(None), "–"),
        (text.file_size(102_170_216), "102.2 MB"),
        (text.file_size(2_170_216_000), "2.2 GB"),
        (text.file_size(1_234), "1.2 kB"),
        (text.file_size(17), "17 B"),
        (text.duration(1.44), "1.4 s"),
        (text.duration(59.6), "1 min 00 s"),
        (text.duration(48.2), "48 s"),
        (text.duration(131.6), "2 min 12 s"),
    ],
)
def test_numbers_are_short_and_carry_their_unit(shown: str, expected: str) -> None:
    assert plain(shown) == expected


def test_names_lose_what_they_all_share_at_a_separator() -> None:
    assert text.short_names(["/layer1/conv1/Conv", "/layer1/conv2/Conv", "/layer2/conv1/Conv"], 30) == [
        "layer1/conv1",
        "layer1/conv2",
        "layer2/conv1",
    ]
    assert text.short_names(["res2a_branch2a", "res2a_branch2b"], 30) == ["branch2a", "branch2b"]
    assert text.short_names(["conv1", "conv12"], 30) == ["conv1", "conv12"]
    assert text.short_names(["model/conv", "model/"], 30) == ["model/conv", "model/"]
    assert text.short_names(["same", "same"], 30) == ["same", "same"]
    assert text.short_names(["/layer1/layer1.0/conv1", "/layer1/layer1.1/conv1", "/fc"], 30) == [
        "layer1.0/conv1",
        "layer1.1/conv1",
        "fc",
    ]
    assert text.short_names(["a/a.0/b", "a.0/b", "c"], 30) == ["a/a.0/b", "a.0/b", "c"]
    assert text.short_names(["only/one"], 30) == ["only/one"]
    assert text.short_names([], 30) == []


def test_a_long_name_keeps_both_ends() -> None:
    assert text.shorten("resnet_stage4_block10_branch2c", 12) == "resnet…nch2c"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(), max_size=6), st.integers(3, 20))
def test_any_names_become_printable_and_short(names: list[str], length: int) -> None:
    shown = text.short_names(names, length)
    assert len(shown) == len(names)
    assert all(len(name) <= length and name.isprintable() for name in shown)


def test_a_sparkline_rises_from_empty_to_full() -> None:
    assert text.sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"
    assert text.sparkline([index / 99 for index in range(100)], 4) == "▁▃▆█"
    assert text.sparkline([0.5], 1, top=1.0) == "▅"
    assert text.sparkline([0.0, 0.0], 4) == "▁▁"
    assert text.sparkline([], 4) == ""
