"""Counts add up, in a histogram, over processes, and after a process has gone."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from ranksmith.serve.frontend.counts import Counts
from ranksmith.serve.frontend.shared import SharedCounts, settle
from ranksmith.serve.messages import Answer

ANSWER = Answer(queue_ms=3.0, compute_ms=40.0, rows=8)


def test_a_histogram_holds_a_bound_in_its_bucket_and_what_is_above_all_of_them() -> None:
    counts = Counts()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 11.0):
        counts.request.add(seconds)
    cumulated = dict(counts.request.cumulated)
    assert (cumulated[0.001], cumulated[0.002], cumulated[5.0], cumulated[10.0], cumulated[math.inf]) == (2, 3, 3, 4, 5)
    assert (counts.request.count, counts.request.total) == (5, pytest.approx(21.0021))


def test_what_was_answered_is_in_every_count() -> None:
    counts = Counts()
    counts.answered(ANSWER, 2, [0.05])
    counts.answered(ANSWER, 6, [0.15])
    assert (counts.rows, counts.batches, counts.request.count) == (8, 1, 2)
    assert counts.request.total == pytest.approx(0.2)
    assert counts.queue.total == pytest.approx(0.006)
    assert counts.compute.total == pytest.approx(0.08)
    assert counts.batch.total == 16
    assert counts.decode.count == 0
    assert counts.last_s > 0


def test_requests_that_are_answered_together_count_as_when_they_come_one_by_one() -> None:
    together, apart = Counts(), Counts()
    together.answered(ANSWER, 6, [0.01, 0.02, 0.04])
    for seconds in (0.01, 0.02, 0.04):
        apart.answered(ANSWER, 2, [seconds])
    assert (together.rows, together.request.cumulated) == (apart.rows, apart.request.cumulated)
    assert together.batch.cumulated == apart.batch.cumulated
    for name in ("request", "queue", "compute", "batch"):
        assert getattr(together, name).total == pytest.approx(getattr(apart, name).total)


def test_only_images_are_decoded() -> None:
    counts = Counts()
    counts.answered(Answer(queue_ms=0.0, compute_ms=1.0, rows=1, decode_ms=2.0), 1, [0.01])
    assert (counts.decode.count, counts.decode.total) == (1, pytest.approx(0.002))


def test_failures_are_told_by_status() -> None:
    counts = Counts()
    for status in (503, 400, 503):
        counts.failed(status, 0.5)
    assert counts.failures == {400: 1, 503: 2}
    assert counts.failed_s == 1.5
    assert counts.request.count == 0


class TestShared:
    def test_another_reader_sees_each_addition_at_once(self, tmp_path: Path) -> None:
        first, second = SharedCounts(tmp_path), SharedCounts(tmp_path)
        for shared in (first, second, first):
            shared.own("m", 2).answered(ANSWER, 1, [0.01])
        second.own("a/b\n", 1).failed(500, 0.1)
        for shared in (first, second, SharedCounts(tmp_path)):
            found = shared.all()
            assert list(found) == [("a/b\n", 1), ("m", 2)]
            assert found["m", 2].request.count == 3
            assert found["a/b\n", 1].failures == {500: 1}

    def test_the_latest_answer_is_the_latest_of_all(self, tmp_path: Path) -> None:
        first, second = SharedCounts(tmp_path), SharedCounts(tmp_path)
        first.own("m", 1).answered(ANSWER, 1, [0.01])
        second.own("m", 1).answered(ANSWER, 1, [0.01])
        assert first.all()["m", 1].last_s == second.own("m", 1).last_s

    def test_alone_it_tells_of_itself(self) -> None:
        alone = SharedCounts()
        alone.own("m", 1).answered(ANSWER, 4, [0.01])
        assert alone.all()["m", 1].rows == 4

    def test_of_a_process_that_has_gone_only_what_was_in_flight_is_forgotten(self, tmp_path: Path) -> None:
        shared = SharedCounts(tmp_path)
        for _ in range(3):
            shared.own("m", 1).begun()
        shared.own("m", 1).answered(ANSWER, 1, [0.01])
        settle(tmp_path, os.getpid() + 1)
        assert shared.all()["m", 1].in_flight == 3
        settle(tmp_path, os.getpid())
        assert (shared.all()["m", 1].in_flight, shared.all()["m", 1].request.count) == (0, 1)
