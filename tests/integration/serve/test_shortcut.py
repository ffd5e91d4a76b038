"""Requests that take the short way are answered as on the long one, however they arrive."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httptools
import msgspec
import structlog
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from ranksmith.serve.frames import Tensor
from ranksmith.serve.frontend.exchange import Direct
from ranksmith.serve.frontend.held import Pending
from ranksmith.serve.frontend.http import make_http
from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.reply import RefusedError, Reply
from ranksmith.serve.messages import Answer, TensorInfo
from tests.integration.serve.front import run
from tests.integration.serve.pools import WorkerlessPool, introduce

ROW_BYTES = 16


class Echo(WorkerlessPool):
    """Answers with what it was sent, once it is let to."""

    def __init__(self) -> None:
        super().__init__()
        introduce(self, TensorInfo("x", "UINT8", [-1, ROW_BYTES]), takes_images=False)
        self.open = asyncio.Event()
        self.open.set()
        self.refuses = self.breaks = False

    def submit(self, *arguments: Any, **options: Any) -> Pending:
        if self.breaks:
            raise ZeroDivisionError("the secret is /srv/secret.py")
        if self.refuses:
            raise RefusedError(503, "too much is waiting", retry_after_s=2.0, is_overload=True)
        return super().submit(*arguments, **options)

    async def answer(self, tensors: tuple[Tensor, ...], rows: int) -> Reply:
        await self.open.wait()
        return Reply(1, Answer(queue_ms=0.0, compute_ms=0.0, rows=rows), tensors)


@dataclass
class Received:
    """Answers, as httptools reads them."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def data(self) -> bytes:
        return self.body[int(self.headers["inference-header-content-length"]) :]


class Reader:
    def __init__(self) -> None:
        self.answers: list[Received] = []
        self._parser = httptools.HttpResponseParser(self)
        self._next = Received()

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._next = Received()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._next.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._next.body += body

    def on_message_complete(self) -> None:
        self._next.status = self._parser.get_status_code()
        self.answers.append(self._next)


@dataclass
class Client:
    """One end of a connection whose other end is a front end's."""

    socket: socket.socket
    pool: Echo
    direct: Direct
    state: ServerState
    reader: Reader = field(default_factory=Reader)
    ended: bool = False

    async def send(self, data: bytes) -> None:
        """And wait until the front end has read it."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.socket, data)
        while _unread(self.socket):
            await asyncio.sleep(0)

    async def read(self, answers: int) -> list[Received]:
        """So many answers, of all there have been; fewer if the connection ends."""
        loop = asyncio.get_running_loop()
        while len(self.reader.answers) < answers and not self.ended:
            data = await loop.sock_recv(self.socket, 1 << 16)
            self.ended = not data
            self.reader.feed(data) if data else None
        return self.reader.answers


def _unread(connected: socket.socket) -> int:
    size: int = struct.unpack("i", fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return size


@asynccontextmanager
async def connected(limits: Limits | None = None) -> AsyncIterator[Client]:
    pool, state = Echo(), ServerState()
    app, http = make_http(pool, limits or Limits())
    config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_level="error")
    config.load()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    make = partial(http, config=config, server_state=state, app_state={})
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(make, theirs)
    try:
        yield Client(ours, pool, http.direct, state)
    finally:
        transport.abort()
        ours.close()
        while state.connections or state.tasks:
            await asyncio.sleep(0)


def request(number: int, *headers: str, rows: int = 1, path: str = "/v2/models/m/infer") -> bytes:
    """A request whose data are its number."""
    size = ROW_BYTES * rows
    shown = msgspec.json.encode(
        {
            "inputs": [
                {"name": "x", "datatype": "UINT8", "shape": [rows, ROW_BYTES], "parameters": {"binary_data_size": size}}
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Inference-Header-Content-Length: {len(shown)}",
        f"Content-Length: {len(shown) + size}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + shown + bytes([number]) * size


@asynccontextmanager
async def introduced(limits: Limits | None = None) -> AsyncIterator[Client]:
    """A client that was answered once, so that its head is known."""
    async with connected(limits) as client:
        await client.send(request(1))
        await client.read(1)
        yield client


def short(client: Client, data: bytes) -> bool:
    return client.direct.heads.find(data) is not None


def test_the_short_way_answers_as_the_long_one() -> None:
    async def work() -> None:
        async with connected() as client:
            assert not short(client, request(1))
            await client.send(request(1))
            await client.read(1)
            assert short(client, request(2))
            await client.send(request(2))
            first, second = await client.read(2)
            assert first.status == second.status == 200
            assert first.headers.keys() == second.headers.keys()
            assert first.headers["x-request-id"] != second.headers["x-request-id"]
            assert first.data == bytes([1]) * ROW_BYTES
            assert second.data == bytes([2]) * ROW_BYTES
            assert client.direct.bodies.held_bytes == 0

    run(work)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 2400), max_size=12),
    waits=st.booleans(),
)
def test_a_pipeline_cut_anywhere_is_answered_in_order(requests: list[int], cuts: list[int], waits: bool) -> None:
    async def work() -> None:
        stream = b"".join(request(number, rows=rows) for number, rows in enumerate(requests))
        places = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
        async with connected() as client:
            # Every head is known already.
            for rows in (1, 2, 3):
                await client.send(request(99, rows=rows))
                await client.read(rows)
            if waits:
                client.pool.open.clear()
            sending = asyncio.ensure_future(_in_pieces(client, [stream[a:b] for a, b in itertools.pairwise(places)]))
            await asyncio.sleep(0)
            client.pool.open.set()
            answers = (await client.read(3 + len(requests)))[3:]
            await sending
            assert [answer.status for answer in answers] == [200] * len(requests)
            assert [answer.data for answer in answers] == [
                bytes([number]) * (ROW_BYTES * rows) for number, rows in enumerate(requests)
            ]
            assert client.direct.bodies.held_bytes == 0

    run(work)


async def _in_pieces(client: Client, pieces: list[bytes]) -> None:
    for piece in pieces:
        await asyncio.get_running_loop().sock_sendall(client.socket, piece)
        # While an answer is owed the front end may rightly not read on.
        for _ in range(20):
            await asyncio.sleep(0)


def test_what_looks_like_a_known_head_inside_another_request_is_not_one() -> None:
    async def work() -> None:
        async with introduced() as client:
            inner = request(7)
            # First as a body, cut so that the known head stands at the start of what is read; then as a header.
            head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: y\r\nContent-Length: {len(inner)}\r\n\r\n".encode()
            await client.send(head)
            await client.send(inner)
            assert (await client.read(2))[1].status == 400
            await client.send(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX-Odd: ")
            await client.send(inner)
            third = (await client.read(3))[2]
            assert (third.status, client.pool.given[1:]) == (200, [])

    run(work)


def test_heads_that_differ_from_request_to_request_are_not_remembered() -> None:
    async def work() -> None:
        async with connected() as client:
            odd = [
                request(1, "X-Request-Id: abc"),
                request(1, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                request(1, "Expect: 100-continue"),
                request(1, "X-Long: " + "y" * 4000),
                request(1, path="/v2/models/none/ready"),
            ]
            for sent in odd:
                await client.send(sent)
                await client.read(len(client.reader.answers) + 1)
                assert not short(client, sent)
            assert client.reader.answers[0].headers["x-request-id"] == "abc"

    run(work)


def test_bare_line_feeds_never_make_a_head() -> None:
    async def work() -> None:
        async with connected() as client:
            inner = request(1).replace(b"\r\n", b"\n", 5)
            await client.send(inner)
            await client.read(1)
            assert not short(client, inner)

    run(work)


def test_an_invalid_request_with_a_known_head_gets_the_words_of_the_long_way() -> None:
    async def work() -> None:
        async with introduced() as client:
            await client.send(request(1).replace(b'"UINT8"', b'"INT16"'))
            answer = (await client.read(2))[1]
            assert answer.status == 400
            assert b"datatype" in answer.body

    run(work)


def test_overload_is_told_on_the_short_way_as_well() -> None:
    async def work() -> None:
        async with introduced() as client:
            client.pool.refuses = True
            await client.send(request(1))
            answer = (await client.read(2))[1]
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert msgspec.json.decode(answer.body) == {"error": "too much is waiting"}

    run(work)


def test_where_too_many_wait_a_request_is_refused_whatever_it_asks() -> None:
    async def work() -> None:
        async with introduced() as client:
            most_rows, client.pool.most_rows = client.pool.most_rows, 0
            nonsense = request(1).replace(b'"UINT8"', b'"INT16"')
            await client.send(nonsense[:-1])
            await client.send(nonsense[-1:])
            answer = (await client.read(2))[1]
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert msgspec.json.decode(answer.body) == {"error": "too many requests are waiting"}
            counts = client.pool.counts.own("m", 1)
            assert (counts.failures, counts.in_flight) == ({503: 1}, 0)
            assert client.direct.bodies.held_bytes == 0

            client.pool.most_rows = most_rows
            await client.send(request(2))
            assert (await client.read(3))[2].data == bytes([2]) * ROW_BYTES

    run(work)


def test_a_bug_is_logged_and_not_shown() -> None:
    async def work() -> None:
        async with introduced() as client:
            client.pool.breaks = True
            with structlog.testing.capture_logs() as logged:
                await client.send(request(1))
                answer = (await client.read(2))[1]
            assert (answer.status, msgspec.json.decode(answer.body)) == (500, {"error": "a bug of ours"})
            assert [entry["request_id"] for entry in logged] == [answer.headers["x-request-id"]]
            assert client.direct.bodies.held_bytes == 0

    run(work)


def test_a_client_that_goes_takes_its_request_along() -> None:
    async def work() -> None:
        async with introduced() as client:
            client.pool.open.clear()
            await client.send(request(2))
            client.socket.close()
            await asyncio.wait(client.pool.given)
            assert [future.cancelled() for future in client.pool.given] == [False, True]
            assert client.direct.bodies.held_bytes == 0

    run(work)


def test_a_connection_whose_first_request_is_known_is_in_time() -> None:
    async def work() -> None:
        async with connected(Limits(head_s=0.1)) as client:
            lines = request(1).partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
            headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
            client.direct.heads.learn(request(1), "/v2/models/m/infer", "1.1", headers)
            assert short(client, request(1))
            client.pool.open.clear()
            await client.send(request(1))
            await asyncio.sleep(0.3)
            client.pool.open.set()
            assert (await client.read(1))[0].status == 200

    run(work)


def test_a_body_that_does_not_arrive_is_left_to_the_clock_of_the_long_way() -> None:
    async def work() -> None:
        async with introduced(Limits(body_s=0.2, linger_s=0.1)) as client:
            await client.send(request(2)[:-3])
            assert (await client.read(2))[1].status == 408
            assert client.direct.bodies.held_bytes == 0

    run(work)


def test_shutting_down_answers_what_was_taken_and_says_that_it_closes() -> None:
    async def work() -> None:
        async with introduced() as client:
            client.pool.open.clear()
            await client.send(request(2))
            for connection in list(client.state.connections):
                connection.shutdown()
            client.pool.open.set()
            answer = (await client.read(2))[1]
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            await client.read(3)
            assert client.ended

    run(work)
