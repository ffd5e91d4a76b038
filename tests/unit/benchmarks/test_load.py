"""The load generator counts what a server really answers, and measures from when a request was due."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest

from benchmarks.serving.load import Target, closed_loop, open_loop
from benchmarks.serving.questions import Judge
from benchmarks.serving.tally import Outcome
from benchmarks.serving.wire import Address, WireError, parse, request

QUESTIONS = 4
Answer = Callable[[int, int, asyncio.StreamWriter], Awaitable[None]]


def logits(question: int) -> bytes:
    return np.arange(question, question + 3, dtype=np.float32).tobytes()


def reply(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Target]:
    """A server on a real port; `answer` is told how many requests came before, and which question this one asks."""
    served = 0

    talking: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        task = asyncio.current_task()
        assert task is not None
        talking[task] = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                question = int(await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0])))
                served += 1
                await answer(served - 1, question, writer)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    requests = [request("POST", "/", body=str(question).encode()) for question in range(QUESTIONS)]
    expected = [(np.frombuffer(logits(question), np.float32),) for question in range(QUESTIONS)]
    judge = Judge(expected, lambda body: np.frombuffer(body, np.float32))
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield Target(Address(server.sockets[0].getsockname()[1]), requests, judge)
        for writer in talking.values():
            writer.close()
        await asyncio.gather(*talking)


async def right(served: int, question: int, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(logits(question)))


async def mixed(served: int, question: int, writer: asyncio.StreamWriter) -> None:
    """Of ten in turn: the answer of another question, a refusal of either kind, an error, a connection that ends."""
    kind = served % 10
    if kind == 0:
        writer.write(reply(logits(question + 1)))
    elif kind in (1, 2):
        writer.write(reply(b"later", "503 Service Unavailable" if kind == 1 else "429 Too Many Requests"))
    elif kind == 3:
        writer.write(reply(b"oops", "500 Internal Server Error"))
    elif kind == 4:
        writer.close()
    else:
        await right(served, question, writer)


def run(answer: Answer, load: Callable[[Target], Awaitable[Outcome]]) -> Outcome:
    async def main() -> Outcome:
        async with serving(answer) as target:
            return await load(target)

    return asyncio.run(main())


@pytest.mark.parametrize(
    "load",
    [
        lambda target: closed_loop(target, clients=3, seconds=0.5),
        lambda target: open_loop(target, rate=500, seconds=0.5, seed=1),
    ],
    ids=["closed", "open"],
)
def test_wrong_answers_refusals_and_failures_are_counted_apart(load: Callable[[Target], Awaitable[Outcome]]) -> None:
    outcome = run(mixed, load)
    assert outcome.sent >= 10
    tens, rest = divmod(outcome.sent, 10)
    assert outcome.wrong == tens + (rest > 0)
    assert outcome.refused == 2 * tens + max(0, min(2, rest - 1))
    assert outcome.failed == {
        "status 500": tens + (rest > 3),
        "the connection ended before the answer": tens + (rest > 4),
    }
    assert outcome.sent == outcome.answered + outcome.wrong + outcome.refused + outcome.failures
    assert 0 < outcome.in_time <= outcome.answered


def test_throughput_counts_to_the_last_answer_and_not_to_the_end_of_the_time() -> None:
    """Four clients whose answers come together, the last ones after the end."""
    together, over = asyncio.Barrier(4), asyncio.Event()

    async def batched(served: int, question: int, writer: asyncio.StreamWriter) -> None:
        await together.wait()
        if served >= 4:
            await over.wait()
        await right(served, question, writer)

    async def load(target: Target) -> Outcome:
        asyncio.get_running_loop().call_later(0.6, over.set)
        return await closed_loop(target, clients=4, seconds=0.5)

    outcome = run(batched, load)
    assert (outcome.answered, outcome.in_time) == (8, 4)
    assert outcome.elapsed_s > 0.5
    assert outcome.per_second == outcome.answered / outcome.elapsed_s


def test_answers_that_differ_in_the_last_digits_are_right_and_nan_is_not() -> None:
    expected = np.array([1000.0, 1.0, 2.0], np.float32)
    judge = Judge([(expected,)], lambda body: np.frombuffer(body, np.float32))
    assert judge.is_right(0, (expected + np.float32(0.5)).tobytes())
    assert not judge.is_right(0, (expected + np.float32(1.5)).tobytes())
    assert not judge.is_right(0, np.full(3, np.nan, np.float32).tobytes())
    assert not judge.is_right(0, expected[:2].tobytes())
    assert not judge.is_right(0, b"no floats")


def test_a_server_that_stalls_makes_every_request_late_that_was_due_meanwhile() -> None:
    over = asyncio.Event()

    async def stall(served: int, question: int, writer: asyncio.StreamWriter) -> None:
        if served == 0:
            asyncio.get_running_loop().call_later(0.4, over.set)
        await over.wait()
        await right(served, question, writer)

    outcome = run(stall, lambda target: open_loop(target, rate=100, seconds=0.2, seed=1))
    # Sent one after the other, all but the first would be quick.
    assert outcome.answered == outcome.sent > 5
    assert outcome.in_time == 0
    assert outcome.latency.p50_ms > 200


def test_nobody_listening_is_a_failure_of_every_request() -> None:
    async def main() -> Outcome:
        async with serving(right) as target:
            pass
        return await open_loop(target, rate=100, seconds=0.1, seed=1)

    outcome = asyncio.run(main())
    assert outcome.failed == {"no connection": outcome.sent}
    assert outcome.sent > 0


def test_the_same_seed_makes_the_same_arrivals() -> None:
    first, again, other = (
        run(right, lambda target, seed=seed: open_loop(target, rate=300, seconds=0.2, seed=seed)).sent
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_reply_is_read_however_it_is_cut() -> None:
    whole = reply(b"12345")
    for cut in range(len(whole)):
        assert parse(whole[:cut]) is None
    assert parse(whole) == (200, b"12345", False)
    assert parse(whole.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) == (200, b"12345", True)
    with pytest.raises(WireError, match="more came"):
        parse(whole + b"6")
    with pytest.raises(WireError, match="Content-Length"):
        parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
