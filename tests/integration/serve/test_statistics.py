"""What Triton's clients ask beside inference: configuration, statistics, the list of models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from tests.integration.serve.server import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("demo") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8) as found:
        yield found


def image(rows: int) -> triton.InferInput:
    entry = triton.InferInput("image", (rows, 3, 32, 32), "FP32")
    entry.set_data_from_numpy(np.zeros((rows, 3, 32, 32), np.float32))
    return entry


def stats(client: triton.InferenceServerClient) -> dict[str, Any]:
    (entry,) = client.get_inference_statistics("demo")["model_stats"]
    return dict(entry)


def test_a_model_s_configuration(client: triton.InferenceServerClient) -> None:
    told = client.get_model_config("demo")
    assert (told["name"], told["platform"], told["max_batch_size"]) == ("demo", "onnxruntime_onnx", 16)
    assert told["input"] == [{"name": "image", "data_type": "TYPE_FP32", "dims": [3, 32, 32]}]
    assert told["output"] == [{"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}]
    assert client.get_model_config("demo", "1") == told


def test_the_statistics_add_up(client: triton.InferenceServerClient, server: Server) -> None:
    before = stats(client)
    waiting = [client.async_infer("demo", [image(1 + number % 3)]) for number in range(30)]
    for each in waiting:
        each.get_result()
    after = stats(client)
    grown = {
        name: {key: entry[key] - before["inference_stats"][name][key] for key in ("count", "ns")}
        for name, entry in after["inference_stats"].items()
    }
    for name in ("success", "queue", "compute_infer"):
        assert grown[name]["count"] == 30
    assert grown["fail"] == {"count": 0, "ns": 0}
    assert 0 < grown["compute_infer"]["ns"] < grown["success"]["ns"]
    assert grown["queue"]["ns"] + grown["compute_infer"]["ns"] < grown["success"]["ns"]
    assert after["inference_count"] - before["inference_count"] == 60
    assert 1 <= after["execution_count"] - before["execution_count"] <= 30
    assert after["last_inference"] > before["last_inference"]
    assert client.get_inference_statistics()["model_stats"] == [after]
    assert client.get_inference_statistics("demo", "1")["model_stats"] == [after]


def test_what_fails_is_counted_as_such(client: triton.InferenceServerClient, server: Server) -> None:
    before = stats(client)["inference_stats"]
    with server.client() as plain:
        assert plain.post("/predict", content=b"no image").status_code == 400
    after = stats(client)["inference_stats"]
    assert after["fail"]["count"] - before["fail"]["count"] == 1
    assert after["success"] == before["success"]


def test_the_list_of_models(client: triton.InferenceServerClient, server: Server) -> None:
    entry = {"name": "demo", "version": "1", "state": "READY", "reason": ""}
    assert client.get_model_repository_index() == [entry]
    with server.client() as plain:
        assert plain.post("/v2/repository/index", json={"ready": True}).json() == [entry]
        assert plain.post("/v2/repository/index", content="[").status_code == 400


@pytest.mark.parametrize("what", ["config", "stats"])
def test_of_models_that_are_not_there(server: Server, what: str) -> None:
    with httpx.Client(base_url=server.url) as plain:
        assert plain.get(f"/v2/models/nope/{what}").status_code == 404
        assert plain.get(f"/v2/models/demo/versions/9/{what}").status_code == 404
