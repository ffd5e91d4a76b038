"""What the tests of the server share."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from ranksmith.runtime.session import Session, open_session
from ranksmith.workflow.source import resolve
from tests.integration.serve.asking import INFER, request
from tests.integration.serve.server import Server, serving


@pytest.fixture(scope="session")
def session() -> Session:
    """The demo model in this process."""
    return open_session(resolve("demo").path, threads=1)


@pytest.fixture(scope="session")
def running() -> Iterator[Server]:
    with serving("demo") as found:
        yield found


@pytest.fixture(scope="session")
def asking(running: Server) -> Iterator[httpx.Client]:
    with running.client() as found:
        yield found


@pytest.fixture
def server(running: Server, session: Session, asking: httpx.Client) -> Iterator[Server]:
    """A server that must be healthy and the same after the test."""
    before = running.children("worker"), running.children("frontend")
    told = len(running.lines)
    yield running
    assert (running.children("worker"), running.children("frontend")) == before
    image = np.random.default_rng(7).standard_normal((2, 3, 32, 32)).astype(np.float32)
    assert asking.get("/v2/health/ready").status_code == 200
    answer = asking.post(INFER, json=request(shape=[2, 3, 32, 32], data=image.ravel().tolist()))
    logits = np.reshape(answer.json()["outputs"][0]["data"], (2, 10))
    np.testing.assert_allclose(logits, session.run({"image": image})[0], atol=1e-4)
    assert not [line for line in running.lines[told:] if "Traceback" in line or "a bug" in line], running.lines[told:]


@pytest.fixture
def client(server: Server, asking: httpx.Client) -> httpx.Client:
    """Asks a server that must be healthy afterwards."""
    return asking
