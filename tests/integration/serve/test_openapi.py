"""The server does what its document says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis

from tests.integration.serve.schemathesis_hooks import encoded
from tests.integration.serve.server import Server, serving
from tests.integration.serve.test_crashes import body_of

HERE = Path(__file__).parent
IMAGE = encoded("PNG", 0)
TENSOR = {"name": "image", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}
BINARY, LENGTH = body_of(np.zeros((2, 3, 32, 32), np.float32))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("demo") as running:
        yield running


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as found:
        yield found


def fits(document: Any, path: str, response: httpx.Response) -> bool:
    """Whether this operation may be answered so."""
    operation = document[path][response.request.method]
    told = operation.definition.raw["responses"]
    assert str(response.status_code) in told
    response.request.read()
    operation.validate_response(response)
    return True


def of_all(path: str) -> list[str]:
    return [path, path.replace("{model}", "{model}/versions/{version}")]


GETS = [
    "/v2",
    "/v2/",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/stats",
    "/metrics",
    "/openapi.json",
    "/docs",
    *of_all("/v2/models/{model}"),
    *of_all("/v2/models/{model}/ready"),
    *of_all("/v2/models/{model}/config"),
    *of_all("/v2/models/{model}/stats"),
]
POSTS: list[tuple[str, dict[str, Any]]] = [
    ("/v2/repository/index", {}),
    ("/v2/repository/index", {"json": {"ready": True}}),
    *((path, {"json": {"inputs": [TENSOR]}}) for path in of_all("/v2/models/{model}/infer")),
    *((path, {"content": BINARY, "headers": LENGTH}) for path in of_all("/v2/models/{model}/infer")),
    *((path, {"content": IMAGE}) for path in ("/predict", *of_all("/v2/models/{model}/predict"))),
    *((path, {"files": {"image": IMAGE}}) for path in ("/predict", *of_all("/v2/models/{model}/predict"))),
    ("/predict", {"content": IMAGE, "headers": {"Accept": "text/plain"}}),
    ("/predict", {"content": IMAGE, "params": {"top_k": 1}}),
]


def filled(path: str) -> str:
    return path.replace("{model}", "demo").replace("{version}", "1")


@pytest.mark.parametrize("path", GETS)
def test_what_is_there_is_answered_as_the_document_says(document: Any, client: httpx.Client, path: str) -> None:
    response = client.get(filled(path))
    assert response.status_code == 200
    assert fits(document, path, response)


@pytest.mark.parametrize(("path", "request_"), POSTS)
def test_what_is_asked_is_answered_as_the_document_says(
    document: Any, client: httpx.Client, path: str, request_: dict[str, Any]
) -> None:
    response = client.post(filled(path), **request_)
    assert response.status_code == 200, response.text
    assert fits(document, path, response)


def test_nothing_in_the_document_is_left_out_here(document: Any) -> None:
    assert {*GETS, *(path for path, _ in POSTS)} == set(document)


@pytest.mark.parametrize(
    ("status", "path", "request_"),
    [
        (400, "/v2/models/{model}/infer", {"json": {"inputs": []}}),
        (400, "/predict", {"content": b"no image"}),
        (404, "/v2/models/{model}/versions/{version}/infer", {"json": {"inputs": [TENSOR]}}),
        (503, "/v2/models/{model}/infer", {"json": {"inputs": [TENSOR], "parameters": {"timeout": 1}}}),
    ],
)
def test_what_fails_fails_as_the_document_says(
    document: Any, client: httpx.Client, status: int, path: str, request_: dict[str, Any]
) -> None:
    response = client.post(path.replace("{model}", "demo").replace("{version}", "2"), **request_)
    assert response.status_code == status
    assert fits(document, path, response)


def test_no_request_made_up_from_the_document_is_answered_otherwise(server: Server) -> None:
    before = server.children("worker"), server.children("frontend")
    command = ["schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run"]
    done = subprocess.run(
        [sys.executable, "-m", *command, f"{server.url}/openapi.json"], cwd=HERE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert told is not None
    assert int(told[1]) == int(told[2]) > 500
    assert (server.children("worker"), server.children("frontend")) == before
    assert not [line for line in server.lines if "Traceback" in line or "a bug" in line]


def test_the_page_for_people_may_load_nothing(client: httpx.Client) -> None:
    response = client.get("/docs")
    assert response.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "demo" in response.text
    assert "<script" not in response.text
