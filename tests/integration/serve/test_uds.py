"""HTTP on a Unix socket: the same server, the same limits, and a file that comes and goes with it."""

from __future__ import annotations

import concurrent.futures
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import httpx
import numpy as np
import pytest

from ranksmith.runtime.session import Session
from tests.integration.serve.server import Server, serving
from tests.integration.serve.test_crashes import body_of, images, logits_of


@pytest.fixture
def path() -> Iterator[Path]:
    """Not `tmp_path`, which may be longer than a socket's path can be."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "http.sock"


def asking(path: Path) -> httpx.Client:
    return httpx.Client(base_url="http://ranksmith", transport=httpx.HTTPTransport(uds=str(path)), timeout=30)


def reached(path: Path) -> socket.socket | None:
    """A connection; None where nobody listens any more."""
    # Not httpx, which leaves the socket open when it cannot connect it.
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(30)
    try:
        link.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        link.close()
        return None
    return link


def posted(link: socket.socket, content: bytes, headers: dict[str, str]) -> httpx.Response:
    """One inference over a connection of its own."""
    head = {"Host": "x", "Connection": "close", "Content-Length": str(len(content))} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    link.sendall(f"POST /v2/models/demo/infer HTTP/1.1\r\n{lines}\r\n".encode() + content)
    response = HTTPResponse(link)
    response.begin()
    request = httpx.Request("POST", "http://ranksmith/")
    return httpx.Response(response.status, headers=response.getheaders(), content=response.read(), request=request)


def infer(client: httpx.Client, rows: int, seed: int) -> httpx.Response:
    content, headers = body_of(images(rows, seed))
    return client.post("/v2/models/demo/infer", content=content, headers=headers)


def is_live(path: Path) -> bool:
    with asking(path) as client:
        return client.get("/v2/health/live").status_code == 200


def told_by_status(state: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "ranksmith", "status", "--json", "--state-dir", str(state)]
    told: dict[str, object] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return told


def refusal(server: Server) -> list[str]:
    """What a server that does not start says."""
    assert server.process.wait(60) == 2
    return [line for line in server.lines if line]


def test_both_addresses_answer_the_same(path: Path, session: Session, tmp_path: Path) -> None:
    options = ("--http-uds", str(path), "--state-dir", str(tmp_path))
    with serving("demo", *options) as server, asking(path) as local, server.client() as remote:
        assert server.wait_for("serving")["http_uds"] == str(path)
        assert told_by_status(tmp_path)["http_uds"] == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        expected = session.run({"image": images(2, 0)})[0]
        for client in (local, remote):
            np.testing.assert_allclose(logits_of(infer(client, 2, 0)), expected, atol=1e-4)
        assert local.get("/v2/models/demo").json() == remote.get("/v2/models/demo").json()
        # In a front end there is one set of limits, whichever way a client came.
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(20)
            link.connect(str(path))
            link.sendall(b"GET /" + b"x" * (64 << 10))
            response = HTTPResponse(link)
            response.begin()
            assert response.status == 431
            assert json.loads(response.read()) == {"error": "the headers are over the limit of 65,536 bytes"}
        assert server.terminate() == 0
    assert not path.exists()


def test_killing_a_front_end_breaks_only_its_own_connections(path: Path) -> None:
    with serving("demo", "--frontends", "2", "--http-uds", str(path)) as server:
        for deaths, victim in enumerate(server.children("frontend"), start=1):
            os.kill(victim, signal.SIGKILL)
            server.wait_for("front end died", times=deaths)
            for seed in range(10):
                with asking(path) as client:
                    assert infer(client, 1, seed).status_code == 200


def test_who_comes_while_no_front_end_lives_is_answered_by_the_next_one(path: Path) -> None:
    with serving("demo", "--http-uds", str(path)) as server:
        for deaths in (1, 2):
            server.kill("frontend")
            server.wait_for("front end died", times=deaths)
            with asking(path) as client:
                # It does not begin before it knows the models and their workers.
                assert infer(client, 1, 0).status_code == 200


def test_sigterm_answers_who_was_there(path: Path, session: Session) -> None:
    content, headers = body_of(images(4, 0))
    expected = session.run({"image": images(4, 0)})[0]
    options = ("--frontends", "2", "--http-uds", str(path))
    with serving("demo", *options) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        started = threading.Barrier(9)

        def ask() -> list[httpx.Response]:
            answers = []
            started.wait()
            while (link := reached(path)) is not None:
                # Whoever got through is served to the end.
                with link:
                    answers.append(posted(link, content, headers))
            return answers

        asked = [pool.submit(ask) for _ in range(8)]
        started.wait()
        assert server.terminate() == 0
        for future in asked:
            for answer in future.result():
                np.testing.assert_allclose(logits_of(answer), expected, atol=1e-4)
    assert not path.exists()


def test_what_a_killed_server_left_is_replaced(path: Path) -> None:
    with serving("demo", "--http-uds", str(path)) as server:
        watched = [os.pidfd_open(pid) for pid in server.children("frontend")]
        server.process.kill()
        server.process.wait()
        for frontend in watched:
            # It dies with the supervisor, and its end of the socket with it.
            assert select.select([frontend], [], [], 20)[0]
            os.close(frontend)
    assert path.is_socket()
    with serving("demo", "--http-uds", str(path)):
        assert is_live(path)
    assert not path.exists()


def test_two_servers_cannot_have_the_same(path: Path) -> None:
    with serving("demo", "--http-uds", str(path)):
        with serving("demo", "--http-uds", str(path), ready=False) as second:
            told = refusal(second)
        assert f"error: cannot listen on {path}: another process listens there" in told
        assert is_live(path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "what is there is not a socket"),
        ("folder", "what is there is not a socket"),
        ("nowhere/http.sock", "No such file or directory"),
        ("x" * 150, "AF_UNIX path too long"),
    ],
)
def test_a_path_that_cannot_be_had_is_told_in_one_line(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    with serving("demo", "--http-uds", str(path), ready=False) as server:
        told = refusal(server)
    assert told == [f"error: cannot listen on {path}: {why}", "hint: choose another with --http-uds"]
    assert (tmp_path / "file").read_text() == "precious"
