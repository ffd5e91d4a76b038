"""Prometheus hears of all front ends whichever it asks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import numpy as np
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.serve.asking import encoded
from tests.integration.serve.bundles import demo_bundle
from tests.integration.serve.server import Server, serving
from tests.integration.serve.test_crashes import body_of
from tests.integration.serve.test_swap import ranksmith, swapped


def text(server: Server) -> str:
    with server.client() as client:
        response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return response.text


def values(server: Server) -> dict[str, float]:
    """The samples by name, those of different labels added up."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text(server)):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def ask(server: Server, rows: int) -> httpx.Response:
    content, headers = body_of(np.zeros((rows, 3, 32, 32), np.float32))
    # A connection each, so that both front ends get some.
    with server.client() as client:
        return client.post("/v2/models/demo/infer", content=content, headers=headers)


def inference_count(server: Server) -> int:
    with server.client() as client:
        (told,) = client.get("/v2/models/demo/stats").json()["model_stats"]
    return int(told["inference_count"])


def test_counts_of_all_front_ends_add_up() -> None:
    with serving("demo", "--frontends", "2") as server:
        for rows in (1, 2, 3) * 8:
            assert ask(server, rows).status_code == 200
        found = values(server)
        assert found["ranksmith_requests_total"] == 24
        assert found["ranksmith_rows_total"] == 48
        assert found["ranksmith_request_seconds_count"] == 24
        assert found["ranksmith_batch_rows_count"] == 24
        assert found["ranksmith_in_flight"] == 0
        assert (found["nv_inference_request_success"], found["nv_inference_count"]) == (24, 48)
        assert inference_count(server) == 48
        os.kill(server.children("frontend")[0], signal.SIGKILL)
        server.wait_for("front end died")
        assert ask(server, 1).status_code == 200
        assert values(server)["ranksmith_requests_total"] == 25


def test_grpc_counts_as_well() -> None:
    array = np.zeros((2, 3, 32, 32), np.float32)
    entry = triton.InferInput("image", array.shape, "FP32")
    entry.set_data_from_numpy(array)
    with serving("demo") as server:
        with triton.InferenceServerClient(str(server.wait_for("serving")["grpc"])) as client:
            client.infer("demo", [entry])
        found = values(server)
        assert (found["ranksmith_requests_total"], found["ranksmith_rows_total"]) == (1, 2)
        with server.client() as client:
            assert client.post("/predict", content=encoded("PNG")).status_code == 200
        assert inference_count(server) == 3
        found = values(server)
        assert (found["ranksmith_requests_total"], found["ranksmith_decode_seconds_count"]) == (2, 1)
        inside = sum(found[f"ranksmith_{name}_seconds_sum"] for name in ("queue", "decode", "compute"))
        assert 0 < inside < found["ranksmith_request_seconds_sum"]


def test_restarts_and_swaps_are_counted(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with serving("demo", "--state-dir", str(state)) as server:
        found = values(server)
        assert (found["ranksmith_generation"], found["ranksmith_restarts_total"]) == (1, 0)
        server.kill("worker")
        server.wait_for("worker ready", times=2)
        assert ranksmith("deploy", str(tmp_path), "--state-dir", str(state)).returncode == 1
        swapped("deploy", state, str(demo_bundle(tmp_path / "bundle", shift=100.0)))
        swapped("rollback", state)
        server.until(lambda: 'outcome="rolled_back"' in text(server))
        found = values(server)
        assert (found["ranksmith_generation"], found["ranksmith_restarts_total"]) == (1, 1)
        for outcome in ("refused", "deployed", "rolled_back"):
            assert f'ranksmith_swaps_total{{model="demo",outcome="{outcome}"}} 1.0' in text(server)
