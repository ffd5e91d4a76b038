"""NVIDIA's own client talks to us as it would to Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from ranksmith.runtime.session import Session
from tests.integration.serve.server import Server, serving
from tests.models import GraphBuilder, save

Array = NDArray[Any]


@pytest.fixture(scope="module")
def two_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two inputs and two outputs."""
    build = GraphBuilder()
    build.input("left", ["N", 3])
    build.input("right", ["N", 3])
    build.output(build.node("Add", ["left", "right"], "sum"), ["N", 3])
    build.output(build.node("Mul", ["left", "right"], "product"), ["N", 3])
    return save(build.model(), tmp_path_factory.mktemp("two") / "two-heads.onnx")


@pytest.fixture(scope="module")
def server(two_heads: Path) -> Iterator[Server]:
    with serving("demo", str(two_heads)) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as found:
        yield found


def pictures(rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, 3, 32, 32)).astype(np.float32)


def asked(name: str, array: Array, *, binary: bool = True) -> triton.InferInput:
    found = triton.InferInput(name, array.shape, "FP32")
    found.set_data_from_numpy(array, binary_data=binary)
    return found


class TestHealthAndMetadata:
    def test_it_is_live_and_ready(self, client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("demo")
        assert client.is_model_ready("demo", "1")

    def test_the_server_says_what_it_is(self, client: triton.InferenceServerClient) -> None:
        told = client.get_server_metadata()
        assert told["name"] == "ranksmith"
        assert "binary_tensor_data" in told["extensions"]

    def test_a_model_says_what_goes_in_and_out(self, client: triton.InferenceServerClient) -> None:
        told = client.get_model_metadata("two-heads")
        assert [entry["name"] for entry in told["inputs"]] == ["left", "right"]
        assert told["outputs"][1] == {"name": "product", "datatype": "FP32", "shape": [-1, 3]}
        assert told["versions"] == ["1"]


class TestInference:
    @pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
    @pytest.mark.parametrize("rows", [1, 2, 7, 16])
    def test_the_answers_are_the_model_s(
        self, client: triton.InferenceServerClient, session: Session, rows: int, binary: bool
    ) -> None:
        images = pictures(rows)
        wanted = triton.InferRequestedOutput("logits", binary_data=binary)
        result = client.infer("demo", [asked("image", images, binary=binary)], outputs=[wanted], request_id="abc")
        np.testing.assert_allclose(result.as_numpy("logits"), session.run({"image": images})[0], atol=1e-4)
        assert result.get_response()["id"] == "abc"
        assert result.get_response()["model_version"] == "1"

    def test_several_inputs_and_outputs(self, client: triton.InferenceServerClient) -> None:
        left, right = (np.arange(6, dtype=np.float32).reshape(2, 3) + offset for offset in (0, 10))
        result = client.infer("two-heads", [asked("right", right), asked("left", left)])
        np.testing.assert_array_equal(result.as_numpy("sum"), left + right)
        np.testing.assert_array_equal(result.as_numpy("product"), left * right)

    def test_one_output_of_two(self, client: triton.InferenceServerClient) -> None:
        one = np.ones((1, 3), np.float32)
        wanted = [triton.InferRequestedOutput("product")]
        result = client.infer("two-heads", [asked("left", one), asked("right", one)], outputs=wanted)
        assert [entry["name"] for entry in result.get_response()["outputs"]] == ["product"]

    def test_many_at_once_each_get_their_own(self, server: Server, session: Session) -> None:
        async def one(client: triton_aio.InferenceServerClient, seed: int) -> None:
            images = pictures(1 + seed % 5, seed)
            entry = triton_aio.InferInput("image", images.shape, "FP32")
            entry.set_data_from_numpy(images)
            result = await client.infer("demo", [entry], request_id=str(seed))
            assert result.get_response()["id"] == str(seed)
            np.testing.assert_allclose(result.as_numpy("logits"), session.run({"image": images})[0], atol=1e-4)

        async def all_of_them() -> None:
            async with triton_aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
                await asyncio.gather(*(one(client, seed) for seed in range(64)))

        asyncio.run(all_of_them())


class TestWhatCannotBeAnswered:
    def test_an_unknown_model(self, client: triton.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match="there is no model 'nope'"):
            client.infer("nope", [asked("image", pictures(1))])

    def test_an_unknown_version(self, client: triton.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match="no version '7'"):
            client.infer("demo", [asked("image", pictures(1))], model_version="7")

    @pytest.mark.parametrize("shape", [(1, 3, 32, 31), (1, 3, 32), (17, 3, 32, 32)], ids=str)
    def test_a_wrong_shape(self, client: triton.InferenceServerClient, shape: tuple[int, ...]) -> None:
        with pytest.raises(InferenceServerException, match="image"):
            client.infer("demo", [asked("image", np.zeros(shape, np.float32))])

    def test_a_wrong_type(self, client: triton.InferenceServerClient) -> None:
        entry = triton.InferInput("image", (1, 3, 32, 32), "INT64")
        entry.set_data_from_numpy(np.zeros((1, 3, 32, 32), np.int64))
        with pytest.raises(InferenceServerException, match="INT64"):
            client.infer("demo", [entry])

    def test_an_input_that_the_model_does_not_have(self, client: triton.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match="picture"):
            client.infer("demo", [asked("picture", pictures(1))])
