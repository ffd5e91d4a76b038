"""Whatever dies, no admitted request is lost."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from ranksmith.runtime.session import open_session
from ranksmith.workflow.source import resolve
from tests.integration.serve.server import Server, serving

MARK = 12345.0


def images(rows: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, 3, 32, 32)).astype(np.float32)


def body_of(array: NDArray[Any]) -> tuple[bytes, dict[str, str]]:
    size = array.nbytes
    head = (
        f'{{"inputs":[{{"name":"image","datatype":"FP32","shape":{list(array.shape)},'
        f'"parameters":{{"binary_data_size":{size}}}}}],'
        # On a busy machine three restarts take longer than a request waits unless it says so.
        '"parameters":{"binary_data_output":true,"timeout":60000000}}'
    ).encode()
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def logits_of(response: httpx.Response) -> NDArray[np.float32]:
    response.raise_for_status()
    head = int(response.headers["Inference-Header-Content-Length"])
    return np.frombuffer(response.content[head:], np.float32).reshape(-1, 10)


class Load:
    """Clients that ask again and again until they are told to stop, and look at every answer."""

    def __init__(self, server: Server, clients: int) -> None:
        self.server = server
        self.answered = 0
        self.failures: list[str] = []
        self._enough = threading.Event()
        self._news = threading.Condition()
        self._session = open_session(resolve("demo").path, threads=1)
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(clients)]

    def _ask(self, seed: int) -> None:
        array = images(1 + seed % 3, seed)
        expected = self._session.run({"image": array})[0]
        content, headers = body_of(array)
        with self.server.client() as client:
            while not self._enough.is_set():
                try:
                    got = logits_of(client.post("/v2/models/demo/infer", content=content, headers=headers))
                    np.testing.assert_allclose(got, expected, atol=1e-4)
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(repr(error))
                with self._news:
                    self.answered += 1
                    self._news.notify_all()

    def wait_for_more(self, count: int) -> None:
        """Until so many more requests have been answered."""
        with self._news:
            goal = self.answered + count
            assert self._news.wait_for(lambda: self.answered >= goal, 60)

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._enough.set()
            for thread in self._threads:
                thread.join()


def test_killing_the_only_worker_again_and_again_costs_no_client_an_error() -> None:
    with serving("demo") as server, Load(server, 16).running() as load:
        for time in range(5):
            load.wait_for_more(50)
            server.kill("worker")
            server.wait_for("worker ready", times=time + 2)
        load.wait_for_more(50)
    assert load.failures == []


def test_killing_a_front_end_breaks_only_its_own_connections() -> None:
    with serving("demo", "--frontends", "2") as server:
        first, _ = server.children("frontend")
        os.kill(first, signal.SIGKILL)
        server.wait_for("front end died")
        for _ in range(20):
            with server.client() as client:
                assert client.get("/v2/health/live").status_code == 200


def test_killing_the_supervisor_leaves_no_orphan() -> None:
    before = set(Path("/dev/shm").iterdir())
    with serving("demo", "--frontends", "2", "--workers", "2") as server:
        children = server.children("worker") + server.children("frontend")
        assert len(children) == 4
        watched = [os.pidfd_open(pid) for pid in children]
        server.process.kill()
        server.process.wait()
        for child in watched:
            # A pidfd is readable once its process has ended.
            assert _readable(child)
            os.close(child)
    assert set(Path("/dev/shm").iterdir()) <= before


def _readable(descriptor: int) -> bool:
    import select

    return bool(select.select([descriptor], [], [], 20)[0])


def test_a_request_that_crashes_the_model_gets_an_error_and_its_neighbours_their_answers() -> None:
    with serving("demo", environment={"RANKSMITH_CRASH_ON": str(MARK)}) as server, Load(server, 6).running() as load:
        load.wait_for_more(20)
        poison = images(1, 99)
        poison[0, 0, 0, 0] = MARK
        content, headers = body_of(poison)
        with server.client() as client:
            response = client.post(
                "/v2/models/demo/infer", content=content, headers=headers | {"X-Request-Id": "poison"}
            )
        assert response.status_code == 500
        assert response.json() == {"error": "the model crashed on this request"}
        load.wait_for_more(50)
        with server.client() as client:
            assert client.get("/v2/health/ready").status_code == 200
    assert load.failures == []
    told = [entry["event"] for entry in server.events if entry.get("request_id") == "poison"]
    # By the front end, by the worker that dies of it next, and by the front end again.
    assert told == [*["a request runs alone, as a suspect"] * 2, "the model crashed on a request"]


def test_sigterm_answers_what_was_admitted_and_ends_with_0() -> None:
    array = images(4, 0)
    content, headers = body_of(array)
    expected = open_session(resolve("demo").path, threads=1).run({"image": array})[0]
    with serving("demo") as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        started = threading.Barrier(9)

        def ask() -> list[NDArray[np.float32]]:
            answers = []
            with server.client() as client:
                started.wait()
                with contextlib.suppress(httpx.ConnectError):
                    # Ends when the port is closed: a connection that was taken is served to its end.
                    while True:
                        response = client.post(
                            "/v2/models/demo/infer", content=content, headers=headers | {"Connection": "close"}
                        )
                        answers.append(logits_of(response))
            return answers

        asked = [pool.submit(ask) for _ in range(8)]
        started.wait()
        assert server.terminate() == 0
        for future in asked:
            for answer in future.result():
                np.testing.assert_allclose(answer, expected, atol=1e-4)


def test_a_model_that_cannot_be_loaded_is_told_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model at all")
    with serving(str(broken), ready=False) as server:
        assert server.process.wait(60) == 1
    assert any(str(broken) in line and line.startswith("error:") for line in server.lines)
