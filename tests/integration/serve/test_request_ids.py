"""What a client calls its request is what the logs call it, in the worker, too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.integration.serve.server import Server, serving
from tests.models import GraphBuilder, save

TRACE = "4bf92f35" * 4
FAILED = "the model could not be run"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a model that says it takes rows of any width, and takes only those of 1."""
    build = GraphBuilder()
    x = build.input("x", ["N", "width"])
    build.output(build.node("MatMul", [x, build.weights("w", (1, 2))], "y"), ["N", 2])
    with serving(str(save(build.model(), tmp_path_factory.mktemp("model") / "picky.onnx"))) as running:
        yield running


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"X-Request-Id": "from-http"}, "from-http"),
        ({"traceparent": f"00-{TRACE}-{'b' * 16}-01"}, TRACE),
    ],
)
def test_over_http(server: Server, headers: dict[str, str], name: str) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 9], "data": [0.0] * 9}
    with server.client() as client:
        answer = client.post("/v2/models/picky/infer", json={"inputs": [entry]}, headers=headers)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == name
    server.until(lambda: failed(server, name))


def test_over_grpc(server: Server) -> None:
    entry = triton.InferInput("x", (1, 9), "FP32")
    entry.set_data_from_numpy(np.zeros((1, 9), np.float32))
    with (
        triton.InferenceServerClient(str(server.wait_for("serving")["grpc"])) as client,
        pytest.raises(InferenceServerException, match="could not be run"),
    ):
        client.infer("picky", [entry], headers={"x-request-id": "from-grpc"})
    server.until(lambda: failed(server, "from-grpc"))


def failed(server: Server, name: str) -> bool:
    """Whether the worker has logged it."""
    return any(entry.get("event") == FAILED and entry.get("request_id") == name for entry in server.events)
