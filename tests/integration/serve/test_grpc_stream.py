"""Streams of requests: NVIDIA's own client against a whole server, and their limits in a front end of this process."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from ranksmith.runtime.session import Session
from ranksmith.serve.frames import Frame, Kind, Tensor
from ranksmith.serve.frontend.grpc import stream
from ranksmith.serve.messages import Answer, dumps
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.transport import Link
from tests.integration.serve.front import Code, Front, echo, front_end, infer, run, silent
from tests.integration.serve.server import Server, serving
from tests.integration.serve.triton import asked, pictures

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("demo") as running:
        yield running


class Client:
    """A stream of tritonclient's, and what its callback was told."""

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address)
        self._told: queue.Queue[tuple[Any, InferenceServerException | None]] = queue.Queue()

    def __enter__(self) -> Client:
        self._client.start_stream(lambda result, error: self._told.put((result, error)))
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_stream()
        self._client.close()

    def send(self, model: str, rows: int, **more: Any) -> None:
        self._client.async_stream_infer(model, [asked("image", pictures(rows))], **more)

    def told(self) -> tuple[Any, InferenceServerException | None]:
        return self._told.get(timeout=TIMEOUT_S)

    def answer(self) -> Any:
        result, error = self.told()
        assert error is None
        return result

    def error(self) -> str:
        result, error = self.told()
        assert result is None
        return str(error)


class TestTritonClient:
    def test_answers_come_in_order(self, server: Server, session: Session) -> None:
        rows = [1 + number % 7 for number in range(40)]
        expected = {count: session.run({"image": pictures(count)})[0] for count in set(rows)}
        with Client(server.grpc_address) as client:
            for number, count in enumerate(rows):
                client.send("demo", count, request_id=str(number))
            for number, count in enumerate(rows):
                answer = client.answer()
                assert answer.get_response().id == str(number)
                assert answer.get_response().parameters["triton_final_response"].bool_param
                np.testing.assert_allclose(answer.as_numpy("logits"), expected[count], atol=1e-4)

    def test_an_error_does_not_end_the_stream(self, server: Server) -> None:
        with Client(server.grpc_address) as client:
            client.send("demo", 1)
            client.send("nope", 1)
            client.send("demo", 17)
            client.send("demo", 2)
            assert client.answer().as_numpy("logits").shape == (1, 10)
            assert client.error() == "there is no model 'nope'"
            assert client.error() == "input 'image' has 17 rows; at most 16 are taken"
            assert client.answer().as_numpy("logits").shape == (2, 10)

    def test_the_asynchronous_client(self, server: Server) -> None:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number in range(20):
                yield {
                    "model_name": "demo",
                    "inputs": [asked("image", pictures(1))],
                    "request_id": str(number),
                }

        async def ask() -> list[str]:
            async with triton_aio.InferenceServerClient(server.grpc_address) as client:
                return [result.get_response().id async for result, error in client.stream_infer(requests())]

        assert asyncio.run(ask()) == [str(number) for number in range(20)]

    def test_a_killed_worker_costs_no_answer(self, server: Server) -> None:
        with Client(server.grpc_address) as client:
            client.send("demo", 1)
            client.answer()
            server.kill("worker")
            client.send("demo", 1)
            assert client.answer().as_numpy("logits").shape == (1, 10)

    def test_the_end_comes_after_the_answers(self) -> None:
        with serving("demo") as server, Client(server.grpc_address) as client:
            for number in range(100):
                client.send("demo", 4, request_id=str(number))
            client.answer()
            server.process.terminate()
            answered = 1
            while (told := client.told())[1] is None:
                assert told[0].get_response().id == str(answered)
                assert told[0].as_numpy("logits").shape == (4, 10)
                answered += 1
            assert str(told[1]) == (
                "[StatusCode.UNAVAILABLE] the server is ending; requests that were not answered have not been taken"
            )
            assert server.process.wait(TIMEOUT_S) == 0


class Worker:
    """Keeps what it is given until it is told to answer."""

    def __init__(self) -> None:
        self.given: asyncio.Queue[tuple[Link, Frame]] = asyncio.Queue()

    def __call__(self, link: Link, frame: Frame) -> None:
        self.given.put_nowait((link, frame))


def opened(front: Front) -> Any:
    return front.stub.ModelStreamInfer()


class TestOrder:
    def test_a_later_request_that_is_done_first_waits(self, tmp_path: Path) -> None:
        async def test() -> None:
            worker = Worker()
            async with front_end(tmp_path, worker) as front:
                call = opened(front)
                for name in ("one", "two"):
                    await call.write(infer(id=name))
                first, second = [await worker.given.get() for _ in range(2)]
                echo(*second)
                echo(*first)
                assert [(await call.read()).infer_response.id for _ in range(2)] == ["one", "two"]
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
                assert await call.code() is Code.OK

        run(test)

    def test_an_error_has_the_request_s_id(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                call = opened(front)
                await call.write(infer(5, id="many"))
                await call.write(infer(1, id="fine"))
                await call.done_writing()
                failed, fine = [answer async for answer in call]
                assert failed.error_message == "input 'x' has 5 rows; at most 4 are taken"
                assert failed.infer_response == pb.ModelInferResponse(id="many")
                assert (fine.error_message, fine.infer_response.id) == ("", "fine")

        run(test)

    def test_a_request_that_is_late_does_not_end_the_others(self, tmp_path: Path) -> None:
        async def test() -> None:
            worker = Worker()
            async with front_end(tmp_path, worker) as front:
                call = opened(front)
                hurried = infer(id="hurried")
                hurried.parameters["timeout"].int64_param = 20_000
                await call.write(hurried)
                await call.write(infer(id="patient"))
                assert (await call.read()).error_message == "the request was not answered by its deadline"
                _, patient = [await worker.given.get() for _ in range(2)]
                echo(*patient)
                assert (await call.read()).infer_response.id == "patient"

        run(test)

    def test_what_is_no_request_ends_the_stream(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                call = front.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
                await call.write(infer(id="fine").SerializeToString())
                await call.write(b"\xff\xff")
                assert pb.ModelStreamInferResponse.FromString(await call.read()).infer_response.id == "fine"
                assert await call.code() is Code.INVALID_ARGUMENT
                assert await call.details() == "a message of the stream is no ModelInferRequest"

        run(test)


class TestLimits:
    def test_a_cancelled_stream_frees_its_rows(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, silent) as front:
                call = opened(front)
                for _ in range(3):
                    await call.write(infer())
                given = {(await front.frames.get()).request for _ in range(3)}
                call.cancel()
                told = [await front.frames.get() for _ in range(3)]
                assert {frame.kind for frame in told} == {Kind.CANCEL}
                assert {frame.request for frame in told} == given

        run(test)

    @pytest.mark.parametrize(("most_bytes", "held"), [(2**20, stream.MOST_HELD), (2 * infer().ByteSize(), 2)])
    def test_a_client_that_only_sends_is_not_read_from(self, tmp_path: Path, most_bytes: int, held: int) -> None:
        async def test() -> None:
            worker = Worker()
            async with front_end(tmp_path, worker, most_bytes=most_bytes) as front:
                call = opened(front)
                sending = asyncio.ensure_future(send(call, 2 * held))
                given = [await worker.given.get() for _ in range(held)]
                await sending
                # Were it still read from, a whole other call could not overtake what has been sent.
                await front.stub.ServerLive(pb.ServerLiveRequest())
                assert worker.given.empty()
                for each in given:
                    echo(*each)
                for _ in range(held):
                    echo(*await worker.given.get())
                assert len([answer async for answer in call]) == 2 * held

        async def send(call: Any, number: int) -> None:
            for _ in range(number):
                await call.write(infer())
            await call.done_writing()

        run(test)

    def test_a_client_that_reads_no_answers_is_not_read_from(self, tmp_path: Path) -> None:
        number = 600

        def talkative(link: Link, frame: Frame) -> None:
            tensor = Tensor("y", "FP32", (1, 2**16), bytes(2**18))
            answer = dumps(Answer(queue_ms=0, compute_ms=0, rows=1))
            link.send(Frame(Kind.RESULT, frame.request, frame.generation, meta=answer, tensors=(tensor,)))

        async def test() -> None:
            async with front_end(tmp_path, talkative) as front:
                call = opened(front)
                for _ in range(number):
                    await call.write(infer())
                await call.done_writing()
                await front.stub.ModelInfer(infer())
                assert front.frames.qsize() < number // 2
                assert sum([1 async for answer in call]) == number

        run(test)


class TestEnd:
    @pytest.mark.parametrize(("is_closed", "code"), [(False, Code.UNAVAILABLE), (True, Code.OK)])
    def test_what_was_read_is_answered(self, tmp_path: Path, is_closed: bool, code: Code) -> None:
        async def test() -> None:
            worker = Worker()
            async with front_end(tmp_path, worker) as front:
                call = opened(front)
                await call.write(infer(id="last"))
                if is_closed:
                    await call.done_writing()
                given = await worker.given.get()
                stopping = asyncio.ensure_future(front.server.stop(20.0))
                assert not stopping.done()
                echo(*given)
                assert (await call.read()).infer_response.id == "last"
                assert await call.code() is code
                await stopping

        run(test)
