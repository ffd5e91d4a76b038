"""gRPC: NVIDIA's own client against a whole server, and every status against a worker that does as it is told."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image
from tritonclient.utils import InferenceServerException

from ranksmith.runtime.session import Session
from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.frontend.grpc import start_grpc
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.transport import Link
from tests.integration.serve.front import SERVING, Code, echo, failing, front_end, infer, run, silent
from tests.integration.serve.server import Server, serving
from tests.integration.serve.triton import asked, pictures

NOT_SERVING, UNKNOWN = 2, 3


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("demo") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_address) as found:
        yield found


class TestTritonClient:
    def test_it_is_live_and_ready(self, client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("demo")
        assert client.is_model_ready("demo", "1")

    def test_it_says_what_it_is(self, client: triton.InferenceServerClient) -> None:
        server = client.get_server_metadata()
        assert (server.name, list(server.extensions)) == ("ranksmith", ["model_configuration", "statistics"])
        told = client.get_model_metadata("demo")
        assert list(told.versions) == ["1"]
        assert [(each.name, each.datatype, list(each.shape)) for each in told.inputs] == [
            ("image", "FP32", [-1, 3, 32, 32])
        ]
        config = client.get_model_config("demo").config
        assert (config.name, config.max_batch_size, config.backend) == ("demo", 16, "onnxruntime")
        assert (config.input[0].data_type, list(config.input[0].dims)) == (11, [3, 32, 32])

    @pytest.mark.parametrize("rows", [1, 7, 16])
    def test_the_answers_are_the_model_s(
        self, client: triton.InferenceServerClient, session: Session, rows: int
    ) -> None:
        images = pictures(rows)
        wanted = [triton.InferRequestedOutput("logits")]
        result = client.infer("demo", [asked("image", images)], outputs=wanted, request_id="abc", timeout=20_000_000)
        np.testing.assert_allclose(result.as_numpy("logits"), session.run({"image": images})[0], atol=1e-4)
        assert (result.get_response().id, result.get_response().model_version) == ("abc", "1")

    def test_many_at_once_each_get_their_own(self, server: Server, session: Session) -> None:
        async def one(client: triton_aio.InferenceServerClient, seed: int) -> None:
            images = pictures(1 + seed % 5, seed)
            result = await client.infer("demo", [asked("image", images)], request_id=str(seed))
            assert result.get_response().id == str(seed)
            np.testing.assert_allclose(result.as_numpy("logits"), session.run({"image": images})[0], atol=1e-4)

        async def all_of_them() -> None:
            async with triton_aio.InferenceServerClient(server.grpc_address) as client:
                await asyncio.gather(*(one(client, seed) for seed in range(64)))

        asyncio.run(all_of_them())

    def test_an_image_gets_the_classes_that_http_tells(
        self, server: Server, client: triton.InferenceServerClient
    ) -> None:
        png = picture_file()
        entry = triton.InferInput("image", [1], "BYTES")
        entry.set_data_from_numpy(np.array([png], np.object_))
        result = client.infer("demo", [entry], parameters={"top_k": 3})
        with server.client() as http:
            expected = http.post("/predict?top_k=3", content=png).json()["predictions"]
        assert [label.decode() for label in result.as_numpy("label")] == [each["label"] for each in expected]
        assert result.as_numpy("index").tolist() == [each["index"] for each in expected]
        np.testing.assert_allclose(
            result.as_numpy("probability"), [each["probability"] for each in expected], atol=1e-6
        )

    def test_a_file_that_is_no_image(self, client: triton.InferenceServerClient) -> None:
        entry = triton.InferInput("image", [1], "BYTES")
        entry.set_data_from_numpy(np.array([b"nonsense"], np.object_))
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*not a JPEG"):
            client.infer("demo", [entry])

    def test_what_cannot_be_answered(self, client: triton.InferenceServerClient) -> None:
        image = asked("image", pictures(1))
        for arguments, message in (
            (("nope", [image]), "NOT_FOUND.*there is no model 'nope'"),
            (("demo", [image], "7"), "NOT_FOUND.*no version '7'"),
            (("demo", [asked("image", pictures(17))]), "INVALID_ARGUMENT.*17 rows"),
            (("demo", [asked("picture", pictures(1))]), "INVALID_ARGUMENT.*'picture' is unknown"),
            (("demo", [image, image]), "INVALID_ARGUMENT.*given twice"),
        ):
            with pytest.raises(InferenceServerException, match=message):
                client.infer(*arguments)

    def test_the_end_comes_after_the_answers(self) -> None:
        async def ask(server: Server) -> None:
            async with triton_aio.InferenceServerClient(server.grpc_address) as client:
                asking = [asyncio.ensure_future(client.infer("demo", [asked("image", pictures(1))])) for _ in range(50)]
                await asking[0]
                server.process.terminate()
                for answer in await asyncio.gather(*asking):
                    assert answer.as_numpy("logits").shape == (1, 10)

        with serving("demo") as server:
            asyncio.run(ask(server))
            assert server.process.wait(30) == 0

    def test_a_killed_worker_costs_no_answer(self, server: Server, client: triton.InferenceServerClient) -> None:
        server.kill("worker")
        assert client.infer("demo", [asked("image", pictures(1))]).as_numpy("logits").shape == (1, 10)


def picture_file() -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)).save(written, "PNG")
    return written.getvalue()


class TestAnswers:
    def test_bytes_and_numbers_are_the_same(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                raw = await front.stub.ModelInfer(infer(2, id="one"))
                assert (raw.model_name, raw.model_version, raw.id) == ("m", "3", "one")
                assert [(each.name, each.datatype, list(each.shape)) for each in raw.outputs] == [("y", "FP32", [2, 2])]
                request = infer(2, model_version="3")
                del request.raw_input_contents[:]
                request.inputs[0].contents.fp32_contents.extend([0, 1, 2, 3])
                typed = await front.stub.ModelInfer(request)
                assert list(typed.raw_output_contents) == list(raw.raw_output_contents)
                assert np.frombuffer(raw.raw_output_contents[0], "<f4").tolist() == [0, 1, 2, 3]

        run(test)

    def test_an_image_and_how_many_classes(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                request = pb.ModelInferRequest(model_name="m")
                entry = request.inputs.add(name="picture", datatype="BYTES", shape=[1])
                entry.contents.bytes_contents.append(b"jpeg")
                request.parameters["top_k"].int64_param = 2
                request.outputs.add(name="index")
                response = await front.stub.ModelInfer(request)
                assert [each.name for each in response.outputs] == ["index"]
                assert np.frombuffer(response.raw_output_contents[0], "<i8").tolist() == [0, 1]
                frame = await front.frames.get()
                assert (frame.kind, bytes(frame.tensors[0].data)) == (Kind.IMAGE, b"jpeg")

                request.parameters["top_k"].int64_param = 0
                assert await front.refused(front.stub.ModelInfer(request)) == (
                    Code.INVALID_ARGUMENT,
                    "parameter 'top_k' must be a number from 1 to 1000",
                )
                request.inputs[0].contents.bytes_contents[0] = b""
                assert (await front.refused(front.stub.ModelInfer(request)))[0] is Code.INVALID_ARGUMENT

        run(test)

    def test_front_ends_share_a_port(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                second = await start_grpc(
                    front.pool, f"127.0.0.1:{front.server.port}", deadline_s=1.0, most_bytes=2**20
                )
                assert second.port == front.server.port
                await second.stop(None)

        run(test)


class TestStatus:
    @pytest.mark.parametrize(
        ("request_", "code", "message"),
        [
            (infer(model_name="n" * 9999), Code.NOT_FOUND, "there is no model 'nnnn"),
            (infer(model_version="4"), Code.NOT_FOUND, "the model 'm' has no version '4'"),
            (infer(5), Code.INVALID_ARGUMENT, "input 'x' has 5 rows; at most 4 are taken"),
            (pb.ModelInferRequest(model_name="m"), Code.INVALID_ARGUMENT, "input 'x' is missing"),
        ],
        ids=["model", "version", "rows", "input"],
    )
    def test_what_is_wrong_with_the_request(
        self, tmp_path: Path, request_: pb.ModelInferRequest, code: Code, message: str
    ) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                told = await front.refused(front.stub.ModelInfer(request_))
                assert told[0] is code
                assert told[1].startswith(message)
                assert "\n" not in told[1]

        run(test)

    def test_what_is_no_message(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                for service, method in (
                    ("inference.GRPCInferenceService", "ModelInfer"),
                    ("grpc.health.v1.Health", "Check"),
                ):
                    call = front.channel.unary_unary(f"/{service}/{method}")(b"\xff")
                    told = await front.refused(call)
                    assert told == (Code.INVALID_ARGUMENT, "the request is not a message of this method")

        run(test)

    def test_a_model_that_is_not_ready(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, None) as front:
                refused = await front.refused(front.stub.ModelInfer(infer()))
                assert refused == (Code.UNAVAILABLE, "the model 'm' is not ready")
                assert not (await front.stub.ModelReady(pb.ModelReadyRequest(name="m"))).ready
                assert not (await front.stub.ServerReady(pb.ServerReadyRequest())).ready

        run(test)

    def test_too_much_waiting(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, silent, pool=Pool(most_rows=2)) as front:
                first = front.stub.ModelInfer(infer(2))
                await front.frames.get()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await front.stub.ModelInfer(infer(1))
                assert caught.value.code() is Code.RESOURCE_EXHAUSTED
                assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
                first.cancel()

        run(test)

    def test_a_request_that_is_too_large(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo, most_bytes=1000) as front:
                refused = await front.refused(front.stub.ModelInfer(infer(200)))
                assert refused[0] is Code.RESOURCE_EXHAUSTED

        run(test)

    def test_the_worker_s_failure(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, failing) as front:
                refused = await front.refused(front.stub.ModelInfer(infer()))
                assert refused == (Code.INTERNAL, "it could not be run")

        run(test)

    def test_a_bug_of_ours_is_logged_and_not_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise KeyError("/etc/secret")

        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                monkeypatch.setattr(front.pool, "submit", broken)
                refused = await front.refused(front.stub.ModelInfer(infer()))
                assert refused == (Code.INTERNAL, "a bug of ours; it has been logged")

        run(test)
        out, err = capsys.readouterr()
        assert "/etc/secret" in out + err


class TestDeadlines:
    def test_the_parameter(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, silent) as front:
                request = infer()
                request.parameters["timeout"].int64_param = 20_000
                refused = await front.refused(front.stub.ModelInfer(request))
                assert refused == (Code.DEADLINE_EXCEEDED, "the request was not answered by its deadline")

        run(test)

    def test_the_call_s_own_is_told_to_the_worker(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo, deadline_s=1000.0) as front:
                await front.stub.ModelInfer(infer())
                await front.stub.ModelInfer(infer(), timeout=100.0)
                default, own = [await front.frames.get() for _ in range(2)]
                assert 850 < default.deadline_s - own.deadline_s < 950

        run(test)

    def test_the_default(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, silent, deadline_s=0.02) as front:
                assert (await front.refused(front.stub.ModelInfer(infer())))[0] is Code.DEADLINE_EXCEEDED

        run(test)

    def test_a_deadline_without_end_is_none_that_breaks_anything(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                request = infer()
                request.parameters["timeout"].double_param = float("inf")
                assert len((await front.stub.ModelInfer(request)).outputs) == 1

        run(test)

    def test_a_cancelled_call_frees_its_rows(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, silent) as front:
                call = front.stub.ModelInfer(infer())
                given = await front.frames.get()
                call.cancel()
                told = await front.frames.get()
                assert (told.kind, told.request) == (Kind.CANCEL, given.request)

        run(test)


class TestHealth:
    def test_it_is_told_by_service(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                for service in ("", "m", "inference.GRPCInferenceService"):
                    told = await front.health.Check(health_pb2.HealthCheckRequest(service=service))
                    assert told.status == SERVING
                refused = await front.refused(front.health.Check(health_pb2.HealthCheckRequest(service="nope")))
                assert refused == (Code.NOT_FOUND, "there is no service 'nope'")

        run(test)

    def test_without_a_worker_nothing_is_served(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, None) as front:
                for service in ("", "m"):
                    told = await front.health.Check(health_pb2.HealthCheckRequest(service=service))
                    assert told.status == NOT_SERVING
                watch = front.health.Watch(health_pb2.HealthCheckRequest(service="nope"))
                assert (await watch.read()).status == UNKNOWN

        run(test)


class TestEnd:
    def test_what_was_admitted_is_answered(self, tmp_path: Path) -> None:
        async def test() -> None:
            held: list[tuple[Link, Frame]] = []
            async with front_end(tmp_path, lambda link, frame: held.append((link, frame))) as front:
                watch = front.health.Watch(health_pb2.HealthCheckRequest())
                await watch.read()
                call = front.stub.ModelInfer(infer())
                await front.frames.get()
                stopping = asyncio.ensure_future(front.server.stop(20.0))
                assert await watch.read() is grpc.aio.EOF
                assert not stopping.done()
                echo(*held[0])
                assert (await call).model_version == "3"
                await stopping

        run(test)


class TestReflection:
    def test_every_service_is_described(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with front_end(tmp_path, echo) as front:
                ask = reflection_pb2.ServerReflectionRequest
                call = reflection_pb2_grpc.ServerReflectionStub(front.channel).ServerReflectionInfo()
                await call.write(ask(list_services=""))
                names = [each.name for each in (await call.read()).list_services_response.service]
                assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(names)
                for name in names:
                    await call.write(ask(file_containing_symbol=name))
                    (file,) = (await call.read()).file_descriptor_response.file_descriptor_proto
                    assert name.rpartition(".")[2] in [
                        each.name for each in FileDescriptorProto.FromString(file).service
                    ]
                await call.done_writing()

        run(test)
