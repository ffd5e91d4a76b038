"""What makes a server wait has an end: the application and its connections, in uvicorn as the front end runs them.

In this process and with short limits, so that nothing has to be waited for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPResponse
from typing import Any

import pytest
import structlog
import uvicorn

from ranksmith.serve.frames import Tensor
from ranksmith.serve.frontend.held import Pending
from ranksmith.serve.frontend.http import make_http
from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.reply import Reply
from ranksmith.serve.messages import Answer, Prediction, TensorInfo
from tests.integration.serve.pools import WorkerlessPool, introduce

SHORT = Limits(
    body_bytes=200_000,
    head_s=0.3,
    body_s=0.3,
    linger_s=0.3,
    stalled_s=0.3,
    head_bytes=4096,
    connections=8,
    deadline_s=5,
)
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"


class Echo(WorkerlessPool):
    """By how many bytes came, as a label as long as they were."""

    fails = False

    def submit(self, *arguments: Any, **options: Any) -> Pending:
        if self.fails:
            raise ZeroDivisionError("the secret is /srv/secret.py")
        return super().submit(*arguments, **options)

    async def answer(self, tensors: tuple[Tensor, ...], rows: int) -> Reply:
        predictions = [Prediction(label="x" * len(tensors[0].data), index=0, probability=1.0)]
        return Reply(1, Answer(queue_ms=1.0, compute_ms=2.0, rows=1, predictions=predictions), ())


@dataclass(eq=False)
class Front:
    server: uvicorn.Server
    pool: Echo
    port: int

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), 10) as link:
            yield link

    def answer(self, content: bytes) -> tuple[int, Any]:
        with self.connected() as link:
            link.sendall(content)
            return received(link)

    def is_alive(self) -> bool:
        return self.answer(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")[0] == 200


def received(link: socket.socket) -> tuple[int, Any]:
    response = HTTPResponse(link)
    response.begin()
    return response.status, json.loads(response.read())


def is_closed(link: socket.socket) -> bool:
    """Once what has been sent is read, the connection's end comes; a time-out is a failure."""
    try:
        while link.recv(2**20):
            pass
    except ConnectionResetError:
        pass
    return True


@contextlib.contextmanager
def front(limits: Limits) -> Iterator[Front]:
    pool = Echo()
    introduce(pool, TensorInfo("image", "FP32", [-1, 3, 8, 8]), takes_images=True)
    app, http = make_http(pool, limits)
    config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        started = threading.Event()

        async def serve() -> None:
            serving = asyncio.ensure_future(server.serve(sockets=[listening]))
            while not server.started:
                await asyncio.sleep(0.005)
            started.set()
            await serving

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        try:
            assert started.wait(10)
            found = Front(server, pool, listening.getsockname()[1])
            yield found
            assert found.is_alive()
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def short() -> Iterator[Front]:
    with front(SHORT) as found:
        yield found


def test_a_good_request_is_answered(short: Front) -> None:
    status, content = short.answer(HEAD + b"Content-Length: 3\r\n\r\nabc")
    assert (status, content["predictions"][0]["label"]) == (200, "xxx")


class TestBodies:
    @pytest.mark.parametrize(
        "start",
        [b"Content-Length: 100\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"],
        ids=["sized", "chunked"],
    )
    def test_one_that_does_not_go_on_is_given_up(self, short: Front, start: bytes) -> None:
        with short.connected() as link:
            link.sendall(HEAD + start)
            assert received(link) == (408, {"error": "the body did not arrive within 0.3 s"})
            assert is_closed(link)

    def test_one_that_never_ends_is_given_up(self, short: Front) -> None:
        with short.connected() as link:
            link.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            stop = threading.Event()

            def drip() -> None:
                with contextlib.suppress(OSError):
                    while not stop.wait(0.01):
                        link.sendall(b"1\r\nx\r\n")

            dripping = threading.Thread(target=drip)
            dripping.start()
            try:
                assert received(link) == (408, {"error": "the body did not arrive within 0.3 s"})
                assert is_closed(link)
            finally:
                stop.set()
                dripping.join()

    def test_one_over_the_limit_gets_its_answer_though_it_goes_on(self, short: Front) -> None:
        with short.connected() as link:
            link.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + bytes(0x10000) + b"\r\n") * 6)
            assert received(link) == (413, {"error": "the body is over the limit of 200,000 bytes"})
            assert is_closed(link)

    def test_one_that_nobody_reads_is_given_up_too(self, short: Front) -> None:
        with short.connected() as link:
            link.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            assert received(link)[0] == 404
            assert is_closed(link)

    def test_trailers_that_never_end_are_cut_off(self, short: Front) -> None:
        with short.connected() as link:
            link.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
            with contextlib.suppress(OSError):
                for _ in range(100):
                    link.sendall(b"x: " + bytes(b"y" * 1000) + b"\r\n")
            assert is_closed(link)

    def test_all_of_them_together_are_bounded(self) -> None:
        with front(replace(SHORT, bodies_bytes=150_000, body_s=5)) as found, found.connected() as first:
            first.sendall(HEAD + b"Content-Length: 100001\r\n\r\n" + bytes(100_000))
            status, content = found.answer(HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(100_000))
            assert (status, content) == (503, {"error": "too many large requests are waiting"})
            first.sendall(b"x")
            assert received(first)[0] == 200
            assert found.answer(HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(100_000))[0] == 200


class TestHeaders:
    def test_that_come_one_by_one_are_given_up(self, short: Front) -> None:
        with short.connected() as link:
            link.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            assert received(link) == (408, {"error": "the headers did not arrive within 0.3 s"})
            assert is_closed(link)

    def test_a_client_that_says_nothing_is_given_up(self, short: Front) -> None:
        with short.connected() as link:
            assert received(link)[0] == 408

    def test_blank_lines_between_requests_do_not_stop_the_clock(self, short: Front) -> None:
        with short.connected() as link:
            link.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert received(link)[0] == 200
            link.sendall(b"\r\n")
            assert received(link)[0] == 408

    @pytest.mark.parametrize("start", [b"GET /v2 HTTP/1.1\r\nX: ", b"GET /"], ids=["header", "path"])
    def test_that_never_end_are_refused(self, short: Front, start: bytes) -> None:
        # Not a byte more than is read: closing over unread bytes would reset the connection.
        content = start + b"x" * (SHORT.head_bytes + 1 - len(start))
        assert short.answer(content) == (431, {"error": "the headers are over the limit of 4,096 bytes"})


class TestConnections:
    @pytest.mark.parametrize("content", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", b"\x16\x03\x01"])
    def test_what_is_not_http_is_told_in_json_too(self, short: Front, content: bytes) -> None:
        assert short.answer(content) == (400, {"error": "the request is not HTTP/1.1"})

    def test_a_pipeline_is_answered_in_order(self, short: Front) -> None:
        with short.connected() as link:
            link.sendall((HEAD + b"Content-Length: 3\r\n\r\nabc") * 20 + HEAD + b"Connection: close\r\n\r\n")
            content = b""
            while part := link.recv(2**16):
                content += part
        assert (content.count(b"HTTP/1.1 200 "), content.count(b"HTTP/1.1 400 ")) == (20, 1)

    def test_one_too_many_is_told(self, short: Front) -> None:
        with contextlib.ExitStack() as stack:
            links = [stack.enter_context(short.connected()) for _ in range(SHORT.connections + 1)]
            assert received(links[-1]) == (503, {"error": "too many connections"})

    def test_a_reader_that_never_reads_is_cut_off(self) -> None:
        limits = replace(SHORT, body_bytes=8 << 20, body_s=10)
        with front(limits) as found, found.connected() as link:
            size = 4 << 20
            link.sendall(HEAD + f"Content-Length: {size}\r\n\r\n".encode() + bytes(size))
            link.sendall((HEAD + b"Content-Length: 3\r\n\r\nabc") * 3)
            limit = time.monotonic() + 15
            pause = threading.Event()
            while found.server.server_state.connections:
                assert time.monotonic() < limit
                pause.wait(0.02)

    def test_a_slow_reader_gets_the_whole_answer(self) -> None:
        limits = replace(SHORT, body_bytes=8 << 20, body_s=10)
        with front(limits) as found, found.connected() as link:
            size = 6 << 20
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            link.sendall(HEAD + f"Connection: close\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size))
            pause = threading.Event()
            taken = 0
            while part := link.recv(1 << 18):
                taken += len(part)
                pause.wait(0.03)
            assert taken > size


def test_a_bug_is_logged_and_not_shown(short: Front) -> None:
    short.pool.fails = True
    with structlog.testing.capture_logs() as logged:
        status, content = short.answer(HEAD + b"X-Request-Id: abc\r\nContent-Length: 3\r\n\r\nabc")
    assert (status, content) == (500, {"error": "a bug of ours"})
    assert [(entry["event"], entry["request_id"], entry["path"]) for entry in logged] == [("a bug", "abc", "/predict")]
    assert isinstance(logged[0]["exc_info"], ZeroDivisionError)
