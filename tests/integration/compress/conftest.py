"""What the tests of `compress` share.

What a machine's clock says is either measured for real, and then only its consistency is asserted, or told by
`tests.unit.workflow.scene.Machine`; everything else is the real thing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from ranksmith.data.npz import ArrayDataset
from ranksmith.measure.latency import paired_latency
from ranksmith.runtime.profile import interleaved_node_times
from tests.integration.compress.desk import LABELS, Desk
from tests.unit.workflow.scene import (
    Array,
    labelled,
    network,
    replace_in_compress,
    trained,
)


@pytest.fixture(scope="session")
def small() -> onnx.ModelProto:
    return trained(network())


@pytest.fixture(scope="session")
def small_data(small: onnx.ModelProto) -> ArrayDataset:
    return labelled(small, 160)


@pytest.fixture
def desk(tmp_path: Path, small: onnx.ModelProto, small_data: ArrayDataset) -> Desk:
    return Desk(tmp_path, small, small_data, labels=LABELS)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither figures nor other providers, which take longer than all the rest, where a test is not about them."""
    replace_in_compress(monkeypatch, "write_report", lambda manifest, folder: None)
    replace_in_compress(monkeypatch, "elsewhere", lambda *_: [])


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real measurements of few, short bursts."""

    def few(runners: Any, *, pairs: int, seed: int, **_: Any) -> Array:
        return paired_latency(runners, pairs=min(pairs, 5), seed=seed, warmup=1, min_time_ms=0.02)

    def few_runs(models: Any, feeds: Any, *, threads: int, runs: int) -> list[dict[str, float]]:
        return interleaved_node_times(models, feeds, threads=threads, runs=min(runs, 3))

    replace_in_compress(monkeypatch, "paired_latency", few)
    replace_in_compress(monkeypatch, "interleaved_node_times", few_runs)
    monkeypatch.setattr("ranksmith.runtime.profile._WARMUP_S", 0.0)
