"""Methods beside each other at equal milliseconds, and the page that shows them."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.peers.measured import Answers, Condition, Model, Timing
from benchmarks.peers.page import figure, markdown
from benchmarks.peers.setting import Candidate, Method
from benchmarks.peers.summary import Measured, anchor_line, described, equal_time
from ranksmith.results import Speedup

IMAGES = 100
HERE = Condition(1, 1)


def answers(wrong: int) -> Answers:
    """To `IMAGES` images, of which the first `wrong` are answered otherwise than the original does."""
    agreeing = (np.arange(IMAGES) >= wrong).astype(np.float64)
    return Answers(agreeing=agreeing, lost=1 - agreeing, kl=0.2 * (1 - agreeing), correct=agreeing)


def method(name: str, points: list[tuple[float, int]], *, from_original: bool = True) -> Measured:
    """A method with models of (speed-up, images answered otherwise)."""
    found = Measured(Method(name, name, "made up", [], from_original=from_original))
    for speedup, wrong in points:
        candidate = Candidate(method=name, label=f"{speedup}x", recipe={}, build=bytes, parameter=None)
        found.models.append(Model(candidate, sha256=f"{name}{speedup}", bytes=10, macs=100))
        found.answers.append(answers(wrong))
        timing = Timing(Speedup(ratio=speedup, ci95=(speedup, speedup)), 1 / speedup, 1.0, 1.0 + speedup / 100)
        found.timings.setdefault(HERE, []).append(timing)
    return found


@pytest.fixture
def measured() -> list[Measured]:
    return [
        method("ranksmith-fp32", [(1.1, 0), (1.3, 2)]),
        method("ranksmith-int8", [(4.0, 5)], from_original=False),
        method("int8", [(3.5, 1)], from_original=False),
        method("uniform-svd", [(1.1, 20), (1.6, 60)]),
    ]


def rows(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in entry["rows"]}


def test_ours_is_set_against_every_method_at_the_target(measured: list[Measured]) -> None:
    entry = equal_time(measured, answers(0), HERE, 1.3, seed=0)
    found = rows(entry)
    assert entry["ours"] == "ranksmith-fp32"
    assert {name: row["how"] for name, row in found.items()} == {
        "ranksmith-fp32": "measured",
        "ranksmith-int8": "faster",
        "int8": "faster",
        "uniform-svd": "interpolated",
    }
    assert found["ranksmith-fp32"]["versus"] is None
    versus = found["uniform-svd"]["versus"]
    assert versus["agreement"] == versus["kl"] == "ours is better, the intervals do not overlap"
    assert 0.4 < found["uniform-svd"]["agreement"]["mean"] < 0.8
    assert found["int8"]["versus"]["agreement_pp"] == pytest.approx(-1)


def test_where_fp32_is_too_slow_ours_is_int8(measured: list[Measured]) -> None:
    entry = equal_time(measured, answers(0), HERE, 4.0, seed=0)
    assert entry["ours"] == "ranksmith-int8"
    assert rows(entry)["int8"]["how"] == "not reached"
    assert rows(entry)["int8"]["fastest"] == 3.5
    assert equal_time(measured, answers(0), HERE, 9.0, seed=0)["ours"] is None


def test_the_page_and_the_figure_show_every_method(measured: list[Measured]) -> None:
    result = {
        "model": "made-up",
        "command": "python benchmarks/frontier.py made-up.onnx",
        "ranksmith": "0",
        "machine": {"cpu": "a CPU", "cores": 2, "os": "an OS", "python": "3", "libraries": {"onnxruntime": "1"}},
        "conditions": [str(HERE)],
        "seed": 0,
        "pairs": 3,
        "block": 16,
        "images": {"calibration": 10, "judged": IMAGES},
        "macs": 100,
        "methods": [described(each, 0) for each in measured],
        "equal_time": [equal_time(measured, answers(0), HERE, target, seed=0) for target in (1.3, 9.0)],
        "anchor": anchor_line(measured, HERE),
        "notes": ["AIMET was left out"],
    }
    page = markdown(result, "frontier-made-up")
    for each in measured:
        assert page.count(f"| {each.method.title} |") >= 2 + len(each.models)
    assert "AIMET was left out" in page
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert {line.count("|") for line in table} == {table[0].count("|")}
    drawing = ElementTree.fromstring(figure(result))
    text = "".join(drawing.itertext())
    assert all(each.method.title in text for each in measured)
