"""A thousand requests of different sizes over all protocols at once: each gets its own answer, and the right one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from ranksmith.runtime.session import open_session
from tests.integration.serve.asking import LENGTH
from tests.integration.serve.server import Server, serving
from tests.models import GraphBuilder, save

Array = NDArray[Any]
# The protocol's name of a request, and its rows; to the name that came back, and the logits.
Ask = Callable[[str, Array], tuple[str, Array]]

REQUESTS = 1000
CLIENTS = 24
# Rows of one size run together, never those of two.
SIZES = ((8, 8), (8, 16), (16, 8), (5, 7), (16, 16))
WIDE = 1536
URL = "/v2/models/sizes/infer"


def model_of(path: Path) -> Path:
    """Of images of any size, and slow enough that requests meet in its queue, at little cost for each row."""
    build = GraphBuilder(seed=3)
    x = build.input("x", ["N", 3, "height", "width"])
    x = build.node("Relu", [build.conv(x, "conv", (3, 32), pads=[1, 1, 1, 1], strides=[8, 8])], "relu")
    x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "pool")], "flat")
    x = build.node("Relu", [build.node("MatMul", [x, build.weights("wide", (32, WIDE))], "wide_out")], "hidden0")
    again = build.weights("again", (WIDE, WIDE))
    for number in range(1, 4):
        x = build.node("Relu", [build.node("MatMul", [x, again], f"again{number}")], f"hidden{number}")
    build.output(build.node("MatMul", [x, build.weights("last", (WIDE, 10))], "logits"), ["N", 10])
    return save(build.model(), path)


def rows_of(number: int) -> Array:
    """The rows of one request; no two have the same."""
    rng = np.random.default_rng(number)
    height, width = SIZES[rng.integers(len(SIZES))]
    return rng.standard_normal((rng.integers(1, 9), 3, height, width)).astype(np.float32)


def over_json(client: httpx.Client) -> Ask:
    def ask(name: str, rows: Array) -> tuple[str, Array]:
        entry = {"name": "x", "datatype": "FP32", "shape": rows.shape, "data": rows.ravel().tolist()}
        told = client.post(URL, json={"id": name, "inputs": [entry]}).raise_for_status().json()
        return told["id"], np.reshape(told["outputs"][0]["data"], told["outputs"][0]["shape"])

    return ask


def over_binary(client: httpx.Client) -> Ask:
    def ask(name: str, rows: Array) -> tuple[str, Array]:
        entry = {
            "name": "x",
            "datatype": "FP32",
            "shape": rows.shape,
            "parameters": {"binary_data_size": rows.nbytes},
        }
        head = json.dumps({"id": name, "inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
        headers = {LENGTH: str(len(head))}
        response = client.post(URL, content=head + rows.tobytes(), headers=headers).raise_for_status()
        length = int(response.headers[LENGTH])
        told = json.loads(response.content[:length])
        logits = np.frombuffer(response.content[length:], np.float32)
        return told["id"], logits.reshape(told["outputs"][0]["shape"])

    return ask


def over_grpc(client: triton.InferenceServerClient) -> Ask:
    def ask(name: str, rows: Array) -> tuple[str, Array]:
        entry = triton.InferInput("x", rows.shape, "FP32")
        entry.set_data_from_numpy(rows)
        told = client.infer("sizes", [entry], request_id=name)
        return told.get_response().id, told.as_numpy("logits")

    return ask


def answers(server: Server, requests: list[Array]) -> list[tuple[str, Array]]:
    """By as many clients as ask at once, each request over the next protocol."""
    with (
        server.client() as http,
        triton.InferenceServerClient(str(server.wait_for("serving")["grpc"])) as grpc,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        protocols = itertools.cycle((over_json(http), over_binary(http), over_grpc(grpc)))
        asked = [
            pool.submit(ask, str(number), rows)
            for number, (ask, rows) in enumerate(zip(protocols, requests, strict=False))
        ]
        return [each.result() for each in asked]


def apart(expected: list[Array]) -> float:
    """By how much the two answers differ that are the most alike."""
    first = np.stack([logits[0] for logits in expected])
    gaps = np.abs(first[:, np.newaxis] - first).max(axis=2)
    np.fill_diagonal(gaps, np.inf)
    return float(gaps.min())


def test_every_request_gets_its_own_answer(tmp_path: Path) -> None:
    model = model_of(tmp_path / "sizes.onnx")
    requests = [rows_of(number) for number in range(REQUESTS)]
    session = open_session(model, threads=1)
    expected = [session.run({"x": rows})[0] for rows in requests]
    assert apart(expected) > 1e-3
    with serving(str(model), "--workers", "2") as server, server.client() as client:
        found = answers(server, requests)
        (told,) = client.get("/v2/models/sizes/stats").json()["model_stats"]
    for number, (name, logits) in enumerate(found):
        assert name == str(number)
        np.testing.assert_allclose(logits, expected[number], atol=1e-4, err_msg=f"request {number}")
    assert told["inference_count"] == sum(map(len, requests))
    assert told["execution_count"] < REQUESTS
