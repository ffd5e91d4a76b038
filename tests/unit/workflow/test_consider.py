"""Options are listed with their errors, and factors made on the way where the layer's analyses are at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ranksmith.data.npz import ArrayDataset
from ranksmith.progress import Silent
from ranksmith.search.candidates import pareto
from ranksmith.workflow.build import Builder
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.compress import consider
from ranksmith.workflow.compress.consider import list_options
from ranksmith.workflow.compress.job import CompressOptions, Job, Prepared
from ranksmith.workflow.compress.prepare import prepare
from ranksmith.workflow.compress.sensitivity import tried_options
from ranksmith.workflow.compress.statistics import gather_statistics
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Statistics
from tests.models import save
from tests.unit.workflow.scene import PREPROCESS, network, pictures

WEIGHTED = False


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(consider, "channel_block", lambda _: 2)
    return Job(
        source=ModelSource(path=save(network(), tmp_path / "model.onnx"), name="model"),
        dataset=ArrayDataset("pictures", pictures(60)),
        calibration_dataset=None,
        preprocess=PREPROCESS,
        labels=None,
        options=CompressOptions(output=tmp_path / "bundle", calibration=24, weighted=WEIGHTED),
        progress=Silent(),
        cache=Cache(tmp_path / "cache"),
    )


def builder(job: Job, prepared: Prepared, statistics: Statistics) -> Builder:
    return Builder(prepared.folded, statistics, threads=1, cache=job.cache, key="these")


def test_factors_that_no_other_kind_beats_are_there_without_statistics(job: Job) -> None:
    prepared = prepare(job)
    statistics = gather_statistics(job, prepared)
    listed = list_options(job, prepared, statistics, builder(job, prepared, statistics))
    front = [option for options in listed.values() for option in pareto(options, lambda option: option.macs)]
    assert len({option.kind for option in front}) > 1
    without = builder(job, prepared, Statistics())
    for option in front:
        assert option.kind is not None
        assert option.rank is not None
        without.chain(option.node, option.kind, option.rank, weighted=WEIGHTED, rounds=0)


def test_nothing_is_analysed_twice(job: Job) -> None:
    """By another thread count, say, which is another run with the same cache."""
    prepared = prepare(job)
    statistics = gather_statistics(job, prepared)
    listed = list_options(job, prepared, statistics, builder(job, prepared, statistics))
    # The outputs' counts are what warnings go by; any analysis would miss the inputs.
    counts = Statistics(output=statistics.output)
    files = {path.name for path in job.cache.directory.iterdir()}
    assert list_options(job, prepared, counts, builder(job, prepared, counts)) == listed
    assert {path.name for path in job.cache.directory.iterdir()} == files


def test_refined_factors_are_left_to_the_plans(job: Job) -> None:
    job = replace(job, options=replace(job.options, rounds=1))
    prepared = prepare(job)
    statistics = gather_statistics(job, prepared)
    listed = list_options(job, prepared, statistics, builder(job, prepared, statistics))
    made = len(list(job.cache.directory.glob("chain-*")))
    assert made == sum(len(tried_options(options)) for options in listed.values())
