"""What Triton's clients ask beside inference: configuration, statistics, the list of models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException

from tests.integration.serve.server import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("demo") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8) as found:
        yield found


@pytest.fixture
def over_grpc(server: Server) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(server.grpc_address) as found:
        yield found


def shown(message: Any) -> Any:
    """A message as JSON has it, but with its numbers as numbers."""
    return numbers(MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: each if key == "version" else numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [numbers(each) for each in value]
    return int(value) if isinstance(value, str) and value.isdigit() else value


def only_known(told: Any, expected: Any) -> Any:
    """Without the fields that only Triton's messages have."""
    if isinstance(expected, dict):
        return {key: only_known(told[key], each) for key, each in expected.items() if key in told}
    if isinstance(expected, list):
        return [only_known(*pair) for pair in zip(told, expected, strict=True)]
    return told


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


class TestOverGrpc:
    """What HTTP tells."""

    def test_the_configuration(
        self, client: triton.InferenceServerClient, over_grpc: triton_grpc.InferenceServerClient
    ) -> None:
        expected = client.get_model_config("demo")
        assert only_known(shown(over_grpc.get_model_config("demo", "1").config), expected) == expected

    def test_the_statistics(
        self, client: triton.InferenceServerClient, over_grpc: triton_grpc.InferenceServerClient
    ) -> None:
        entry = triton_grpc.InferInput("image", (3, 3, 32, 32), "FP32")
        entry.set_data_from_numpy(np.zeros((3, 3, 32, 32), np.float32))
        before = over_grpc.get_inference_statistics("demo").model_stats[0]
        over_grpc.infer("demo", [entry])
        after = over_grpc.get_inference_statistics("demo").model_stats[0]
        assert after.inference_stats.success.count - before.inference_stats.success.count == 1
        assert after.inference_count - before.inference_count == 3
        for told in (over_grpc.get_inference_statistics("demo", "1"), over_grpc.get_inference_statistics()):
            expected = client.get_inference_statistics("demo")
            assert only_known(shown(told), expected) == expected

    def test_the_list_of_models(
        self, client: triton.InferenceServerClient, over_grpc: triton_grpc.InferenceServerClient
    ) -> None:
        assert [shown(each) for each in over_grpc.get_model_repository_index().models] == (
            client.get_model_repository_index()
        )

    def test_what_is_not_there(self, over_grpc: triton_grpc.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*no model 'nope'"):
            over_grpc.get_inference_statistics("nope")
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*no version '9'"):
            over_grpc.get_inference_statistics("demo", "9")
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            over_grpc.load_model("demo")
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            over_grpc.unload_model("demo")
