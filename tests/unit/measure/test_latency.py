"""Paired latency on a clock of our own: what is measured, in what order, and what is thrown away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose

from ranksmith.errors import ModelError
from ranksmith.measure.bootstrap import paired_ratio_ci95
from ranksmith.measure.latency import drift, paired_latency, random_feeds, sentinel, summarize
from ranksmith.runtime.session import open_session
from tests.models import GraphBuilder, classifier


class Workshop:
    """A clock, and work that takes time on it: `slowness` multiplies everything."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slowness: Callable[[float], float] = lambda now: 1.0
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now_s

    def work(self, name: str, cost_ms: float) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now_s += cost_ms * 1e-3 * self.slowness(self.now_s)

        return run

    def sentinel_ms(self) -> float:
        cost = 0.5 * self.slowness(self.now_s)
        self.now_s += cost * 1e-3
        return cost


def _measure(shop: Workshop, costs: list[float], **options: object) -> np.ndarray:
    runners = [shop.work(chr(ord("A") + index), cost) for index, cost in enumerate(costs)]
    settings = {"pairs": 10, "seed": 0, "min_time_ms": 1.0, "warmup": 2} | options
    return paired_latency(runners, clock=shop.clock, sentinel_ms=shop.sentinel_ms, **settings)  # type: ignore[arg-type]


def test_times_come_back_as_they_are() -> None:
    samples = _measure(Workshop(), [4.0, 2.0, 1.0])
    assert samples.shape == (10, 3)
    assert_allclose(samples, [[4.0, 2.0, 1.0]] * 10)


def test_a_round_visits_each_and_then_the_same_in_reverse() -> None:
    shop = Workshop()
    _measure(shop, [4.0, 4.0, 4.0], pairs=6)
    rounds = ["".join(shop.log[start : start + 6]) for start in range(6, len(shop.log), 6)]
    assert len(rounds) == 6
    assert all(visited[:3] == visited[5:2:-1] and sorted(visited[:3]) == list("ABC") for visited in rounds)
    assert len(set(rounds)) > 1


def test_short_work_is_timed_in_bursts() -> None:
    shop = Workshop()
    _measure(shop, [0.25, 3.0], pairs=1, min_time_ms=1.0)
    assert shop.log.count("A") == 2 + 2 * 4
    assert shop.log.count("B") == 2 + 2 * 1


def test_even_drift_cancels_in_the_ratio() -> None:
    shop = Workshop()
    shop.slowness = lambda now: 1.0 + now
    samples = _measure(shop, [5.0, 4.0], pairs=20)
    assert paired_ratio_ci95(samples[:, 0], samples[:, 1], 0).ratio == pytest.approx(1.25, rel=0.01)


def test_disturbed_rounds_are_replaced() -> None:
    shop = Workshop()
    # A quarter of the time everything takes three times as long.
    shop.slowness = lambda now: 3.0 if int(now / 0.05) % 4 == 1 else 1.0
    samples = _measure(shop, [5.0, 4.0], pairs=12)
    assert samples.shape == (12, 2)
    assert_allclose(np.median(samples, axis=0), [5.0, 4.0])
    assert np.count_nonzero(samples[:, 0] > 6) <= 2


def test_a_machine_that_is_never_quiet_still_ends() -> None:
    shop = Workshop()
    noise = np.random.default_rng(0)
    shop.slowness = lambda now: float(noise.uniform(0.2, 5.0))
    told: list[int] = []
    samples = _measure(shop, [1.0, 1.0], pairs=15, advance=told.append)
    assert samples.shape == (15, 2)
    assert sum(told) == 15
    assert len(shop.log) < 1000


def test_progress_adds_up() -> None:
    told: list[int] = []
    _measure(Workshop(), [1.0], pairs=7, advance=told.append)
    assert sum(told) == 7


def test_the_same_seed_visits_in_the_same_order() -> None:
    logs = []
    for seed in (0, 0, 1):
        shop = Workshop()
        _measure(shop, [2.0, 2.0, 2.0], seed=seed)
        logs.append(shop.log)
    assert logs[0] == logs[1] != logs[2]


def test_real_time_is_positive() -> None:
    samples = paired_latency([lambda: sum(range(100))] * 2, pairs=2, seed=0, min_time_ms=0.1)
    assert (samples > 0).all()
    assert sentinel() > 0


def test_drift_is_the_larger_of_both_ends() -> None:
    assert_allclose(drift([(1.0, 1.0), (1.0, 1.5), (0.8, 1.0)]), [0.0, 0.5, 0.2])


def test_a_summary_has_mean_and_percentiles() -> None:
    found = summarize(np.arange(101.0))
    assert (found.mean, found.p50, found.p90, found.p99) == (50.0, 50.0, 90.0, 99.0)


def _session(shape: list[int | str], dtype: type = np.float32, op: str = "Identity") -> object:
    build = GraphBuilder(dtype=dtype)
    build.output(build.node(op, [build.input("x", shape)], "y"), shape)
    return open_session(build.model().SerializeToString(), threads=1)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["N", 3, 8, 8], (5, 3, 8, 8)),
        (["N", 3, "h", "w"], (5, 3, 224, 224)),
        (["N", "features"], (5, 1)),
        ([5, 3, 8, 8], (5, 3, 8, 8)),
    ],
)
def test_random_inputs_have_the_models_shapes(shape: list[int | str], expected: tuple[int, ...]) -> None:
    feeds = random_feeds(_session(shape), 5, 0)  # type: ignore[arg-type]
    assert feeds["x"].shape == expected
    assert feeds["x"].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int64, np.bool_, np.float64])
def test_random_inputs_have_the_models_types(dtype: type) -> None:
    assert random_feeds(_session(["N", 4], dtype), 2, 0)["x"].dtype == dtype  # type: ignore[arg-type]


def test_random_inputs_are_seeded() -> None:
    session = open_session(classifier().SerializeToString(), threads=1)
    first, again, other = (random_feeds(session, 2, seed)["x"] for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_a_fixed_batch_of_another_size_is_told() -> None:
    session = open_session(classifier(batch=2).SerializeToString(), threads=1)
    with pytest.raises(ModelError, match="fixed to 2, not 8") as caught:
        random_feeds(session, 8, 0)
    assert "--batch 2" in (caught.value.hint or "")


class Described:
    """A session that only describes its input."""

    name = "described"

    def __init__(self, dtype: str, shape: list[int | str] | None) -> None:
        from ranksmith.results import ValueInfo

        self.inputs = (ValueInfo(name="x", dtype=dtype, shape=shape),)


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        (Described("float32", None), "not known"),
        (Described("string", [1]), "type string"),
        (Described("bfloat16", [1]), "type bfloat16"),
    ],
)
def test_inputs_that_cannot_be_made_up_are_told(session: Described, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        random_feeds(session, 1, 0)  # type: ignore[arg-type]
