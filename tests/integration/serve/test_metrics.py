"""Prometheus hears of all front ends whichever it asks."""

from __future__ import annotations

import os
import signal

import httpx
import numpy as np
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.serve.server import Server, serving
from tests.integration.serve.test_crashes import body_of


def values(server: Server) -> dict[str, float]:
    """The samples by name, those of different labels added up."""
    with server.client() as client:
        response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def ask(server: Server, rows: int) -> httpx.Response:
    content, headers = body_of(np.zeros((rows, 3, 32, 32), np.float32))
    # A connection each, so that both front ends get some.
    with server.client() as client:
        return client.post("/v2/models/demo/infer", content=content, headers=headers)


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
            (told,) = client.get("/v2/models/demo/stats").json()["model_stats"]
        assert told["inference_count"] == 2
