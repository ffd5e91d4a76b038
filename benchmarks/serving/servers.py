"""The servers: how each is started and asked, and how its answers are read."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import wire
from benchmarks.serving.load import Target
from benchmarks.serving.processes import Processes, running
from benchmarks.serving.questions import Floats, Judge, Questions

__all__ = [
    "OURS",
    "SERVERS",
    "Layout",
    "Running",
    "Server",
    "Setup",
    "StartError",
    "binary_tensors",
    "serving",
    "versions",
]

PEERS = Path(__file__).parent / "peers"
MAX_BATCH = 16
MAX_WAIT_MS = 2
_START_S = 120.0
_SOON_S = 5.0
_LOOK_S = 0.1


class StartError(Exception):
    """A server does not answer, or answers wrongly."""


@dataclass(frozen=True)
class Layout:
    """How the cores are divided: processes that run the model, and threads of each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        plural = "" if self.workers == 1 else "s"
        return f"{self.workers} worker{plural} × {self.threads} thread{'' if self.threads == 1 else 's'}"


LAYOUTS = (Layout(2, 1), Layout(1, 2))


@dataclass(frozen=True)
class Setup:
    """
    Attributes:
        name: what ranksmith and MLServer serve the model as.
        folder: the server's working directory, of its own.
    """

    model: Path
    name: str
    layout: Layout
    port: int
    grpc_port: int
    folder: Path
    python: str


@dataclass(frozen=True)
class Server:
    """
    Attributes:
        title: in tables.
        package: whose version is told.
        command: its command line.
        request: a row as a whole HTTP request; the model's name, the input's name, the row.
        decode: a reply's body as the output's values.
        is_peer: whether it runs in the peers' environment.
        layouts: that it is tried with.
    """

    title: str
    package: str
    command: Callable[[Setup], list[str]]
    request: Callable[[str, Questions, Floats], bytes]
    decode: Callable[[bytes, int], Floats]
    is_peer: bool = True
    layouts: tuple[Layout, ...] = LAYOUTS


@dataclass(frozen=True)
class Running:
    server: Server
    setup: Setup
    processes: Processes
    target: Target

    def answers(self) -> bool:
        """Whether the first question is answered now, or in a few seconds."""
        try:
            _wait(self, _SOON_S)
        except StartError:
            return False
        return True


def _ranksmith(setup: Setup) -> list[str]:
    given = [str(setup.model), "--workers", str(setup.layout.workers), "--threads", str(setup.layout.threads)]
    limits = ["--max-batch", str(MAX_BATCH), "--http-port", str(setup.port)]
    grpc = ["--grpc-port", str(setup.grpc_port)]
    return [setup.python, "-m", "ranksmith", "serve", *given, *limits, *grpc, "--state-dir", "state"]


def _peer(file: str) -> Callable[[Setup], list[str]]:
    def command(setup: Setup) -> list[str]:
        given = {
            "model": setup.model,
            "name": setup.name,
            "port": setup.port,
            "workers": setup.layout.workers,
            "threads": setup.layout.threads,
            "max-batch": MAX_BATCH,
            "max-wait-ms": MAX_WAIT_MS,
        }
        return [
            setup.python,
            str(PEERS / file),
            *(part for key, value in given.items() for part in (f"--{key}", str(value))),
        ]

    return command


def _infer_path(name: str) -> str:
    return f"/v2/models/{name}/infer"


def binary_tensors(name: str, questions: Questions, row: Floats, timeout_s: float | None = None) -> bytes:
    """The Open Inference Protocol with binary data both ways."""
    parameters: dict[str, Any] = {"binary_data_output": True}
    if timeout_s is not None:
        parameters["timeout"] = round(1e6 * timeout_s)
    described = {
        "inputs": [
            {
                "name": questions.input_name,
                "datatype": "FP32",
                "shape": list(row.shape),
                "parameters": {"binary_data_size": row.nbytes},
            }
        ],
        "parameters": parameters,
    }
    head = json.dumps(described, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return wire.request("POST", _infer_path(name), headers, head + row.tobytes())


def _json_tensors(name: str, questions: Questions, row: Floats) -> bytes:
    # The inputs have four decimals, so this text is the same number.
    data = ",".join(f"{value:.4f}" for value in row.ravel().tolist())
    described = f'"name":"{questions.input_name}","datatype":"FP32","shape":{list(row.shape)}'
    body = f'{{"inputs":[{{{described},"data":[{data}]}}]}}'
    return wire.request("POST", _infer_path(name), {"Content-Type": "application/json"}, body.encode())


def _raw_bytes(path: str) -> Callable[[str, Questions, Floats], bytes]:
    def request(name: str, questions: Questions, row: Floats) -> bytes:
        return wire.request("POST", path, {"Content-Type": "application/octet-stream"}, row.tobytes())

    return request


def _raw_values(body: bytes, count: int) -> Floats:
    return np.frombuffer(body, "<f4")


def _last_values(body: bytes, count: int) -> Floats:
    """Binary tensors: after some JSON."""
    return np.frombuffer(body[-4 * count :], "<f4")


def _json_values(body: bytes, count: int) -> Floats:
    return np.array(json.loads(body)["outputs"][0]["data"], np.float32)


def _fastapi(title: str, layouts: tuple[Layout, ...] = LAYOUTS) -> Server:
    command = _peer("fastapi_app.py")
    return Server(title, "fastapi", command, _raw_bytes("/inference"), _raw_values, layouts=layouts)


OURS = "ranksmith"
SERVERS = {
    OURS: Server("ranksmith", "ranksmith", _ranksmith, binary_tensors, _last_values, is_peer=False),
    "mosec": Server("mosec", "mosec", _peer("mosec_app.py"), _raw_bytes("/inference"), _raw_values),
    "fastapi": _fastapi("naive FastAPI"),
    "fastapi-one-session": _fastapi("naive FastAPI, one session", (Layout(1, 2),)),
    "litserve": Server("LitServe", "litserve", _peer("litserve_app.py"), _raw_bytes("/predict"), _raw_values),
    "mlserver": Server("MLServer, JSON", "mlserver", _peer("mlserver_app.py"), _json_tensors, _json_values),
}


@contextlib.contextmanager
def serving(
    server: Server, model: Path, name: str, layout: Layout, python: str, questions: Questions
) -> Iterator[Running]:
    """The server, once it has answered the first question rightly.

    Raises:
        StartError: it did not within two minutes.
    """
    requests = [server.request(name, questions, row) for row in questions.inputs]
    values = questions.expected[0][0].size
    judge = Judge(questions.expected, lambda body: server.decode(body, values))
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        setup = Setup(model.resolve(), name, layout, _free_port(), _free_port(), Path(folder), python)
        environment = os.environ | {"TMPDIR": folder, "PYTHONUNBUFFERED": "1"}
        if server.is_peer:
            # What is set for us is not for another environment.
            environment.pop("PYTHONPATH", None)
        target = Target(wire.Address(setup.port), requests, judge)
        with running(server.command(setup), environment, setup.folder) as processes:
            started = Running(server, setup, processes, target)
            _wait(started, _START_S)
            yield started


def _wait(running: Running, limit_s: float) -> None:
    last = "nobody listens"
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit and running.processes.is_alive():
        try:
            reply = _ask(running.target.address, running.target.requests[0])
        except (OSError, wire.WireError) as error:
            last = str(error)
        else:
            if running.target.judge.is_right(0, reply.body):
                return
            last = f"{reply.status} {reply.body[:200]!r}"
        time.sleep(_LOOK_S)
    what = "does not answer" if running.processes.is_alive() else "has ended"
    raise StartError(f"{running.server.title} {what}: {last}\n{running.processes.last_words()}")


def _ask(address: wire.Address, content: bytes) -> wire.Reply:
    received = b""
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.sendall(content)
        while (reply := wire.parse(received)) is None:
            more = connection.recv(65536)
            if not more:
                raise ConnectionError("the connection ended before the answer")
            received += more
    return reply


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def versions(python: str, packages: list[str]) -> dict[str, str]:
    """Of what is installed beside an interpreter."""
    program = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({package: version(package) for package in sys.argv[1:]}))"
    )
    done = subprocess.run([python, "-c", program, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
