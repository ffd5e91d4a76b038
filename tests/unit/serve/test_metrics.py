"""What Prometheus reads, as its own parser understands it."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ranksmith.serve.frontend.counts import Counts
from ranksmith.serve.frontend.metrics import metrics_text
from ranksmith.serve.messages import Answer, Routing

VERSION = (("model", "m"), ("version", "3"))
NOBODY = Routing(workers=[], active={})


def samples(counts: Counts, routing: Routing = NOBODY) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics_text({("m", 3): counts}, routing).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def counts() -> Counts:
    found = Counts()
    found.answered(Answer(queue_ms=3.0, compute_ms=40.0, rows=4, decode_ms=5.0), 2, [0.05])
    found.answered(Answer(queue_ms=3.0, compute_ms=40.0, rows=4), 2, [0.05])
    found.failed(503, 0.001)
    found.begun()
    return found


def test_triton_s_names_say_what_ours_say(counts: Counts) -> None:
    found = samples(counts)
    told = {name.removeprefix("nv_inference_"): found[name, VERSION] for name, _ in found if name.startswith("nv_")}
    assert told == {
        "request_success": 2,
        "request_failure": 1,
        "count": 4,
        "exec_count": 1,
        "request_duration_us": pytest.approx(100_000),
        "queue_duration_us": pytest.approx(6_000),
        "compute_input_duration_us": pytest.approx(5_000),
        "compute_infer_duration_us": pytest.approx(80_000),
        "pending_request_count": 1,
    }
    assert found["ranksmith_requests_total", VERSION] == 2
    assert found["ranksmith_in_flight", VERSION] == 1
    assert found["ranksmith_failures_total", (VERSION[0], ("status", "503"), VERSION[1])] == 1


def test_histograms_are_cumulated(counts: Counts) -> None:
    found = samples(counts)
    below = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "ranksmith_decode_seconds_bucket"
    }
    assert (below["0.002"], below["0.005"], below["+Inf"]) == (0, 1, 1)
    assert found["ranksmith_decode_seconds_sum", VERSION] == pytest.approx(0.005)
    assert found["ranksmith_batch_rows_count", VERSION] == 2


def test_what_the_supervisor_knows_is_told_by_model() -> None:
    routing = Routing(
        workers=[], active={"m": 3, "n": 1}, restarts={"m": 2}, swaps={"m": {"deployed": 2, "refused": 1}}
    )
    found = samples(Counts(), routing)
    for model, generation, restarts in (("m", 3, 2), ("n", 1, 0)):
        assert found["ranksmith_generation", (("model", model),)] == generation
        assert found["ranksmith_restarts_total", (("model", model),)] == restarts
    swaps = {labels: value for (name, labels), value in found.items() if name == "ranksmith_swaps_total"}
    assert swaps == {
        (("model", "m"), ("outcome", "deployed")): 2,
        (("model", "m"), ("outcome", "refused")): 1,
    }
