"""`POST /predict` says what the model says of the same image in process."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ranksmith.data.folder import FolderDataset
from ranksmith.data.loader import load
from ranksmith.data.npz import ArrayDataset, open_npz
from ranksmith.data.preprocess import prepare
from ranksmith.measure.accuracy import logits
from ranksmith.progress import Silent
from ranksmith.results import Preprocess
from ranksmith.runtime.session import Session, open_session
from ranksmith.workflow.inputs import open_inputs
from ranksmith.workflow.source import ModelSource, resolve
from tests.integration.serve.server import Server, serving

IMAGES = 64
# All 500 take some minutes on two cores.
REAL_IMAGES = int(os.environ.get("RANKSMITH_TEST_IMAGES", "100"))


@pytest.fixture(scope="module")
def demo() -> ModelSource:
    return resolve("demo")


@pytest.fixture(scope="module")
def images(demo: ModelSource) -> ArrayDataset:
    assert demo.data is not None
    return open_npz(demo.data)


@pytest.fixture(scope="module")
def expected(demo: ModelSource, images: ArrayDataset) -> list[int]:
    assert demo.preprocess is not None
    session = open_session(demo.path, threads=1)
    return [best(session, images.read(index), demo.preprocess) for index in range(IMAGES)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("demo") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as found:
        yield found


def best(session: Session, image: NDArray[np.uint8], preprocess: Preprocess) -> int:
    return int(np.argmax(session.run({session.inputs[0].name: prepare(image, preprocess)[np.newaxis]})[0]))


def png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def test_the_best_class_is_the_model_s(client: httpx.Client, images: ArrayDataset, expected: list[int]) -> None:
    def ask(index: int) -> int:
        response = client.post("/predict", content=png(images.read(index)))
        response.raise_for_status()
        return int(response.json()["predictions"][0]["index"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(IMAGES))) == expected


@pytest.mark.parametrize("path", ["/predict", "/v2/models/demo/predict", "/v2/models/demo/versions/1/predict"])
def test_a_form_and_a_body_give_the_same(
    client: httpx.Client, images: ArrayDataset, demo: ModelSource, expected: list[int], path: str
) -> None:
    content = png(images.read(3))
    answers = [
        client.post(path, content=content),
        client.post(path, files={"image": ("cat.png", content, "image/png")}),
    ]
    for answer in answers:
        told = answer.json()
        assert (told["model"], told["version"], len(told["predictions"])) == ("demo", "1", 5)
        assert demo.labels is not None
        assert told["predictions"][0]["label"] == demo.labels[expected[3]]
        assert told["predictions"] == sorted(told["predictions"], key=lambda entry: -entry["probability"])


def test_a_form_may_hold_more_than_the_image(client: httpx.Client, images: ArrayDataset, expected: list[int]) -> None:
    parts = {"other": ("a.txt", b"x"), "image": ("i", png(images.read(0)))}
    answer = client.post("/predict", files=parts, data={"note": "hello"})
    assert answer.json()["predictions"][0]["index"] == expected[0]


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (10, 10), (1000, 10)])
def test_as_many_classes_as_were_asked_for(client: httpx.Client, images: ArrayDataset, top_k: int, count: int) -> None:
    answer = client.post("/predict", params={"top_k": top_k}, content=png(images.read(0))).json()
    assert len(answer["predictions"]) == count
    if count == 10:
        assert sum(entry["probability"] for entry in answer["predictions"]) == pytest.approx(1.0)


def test_the_bare_label(client: httpx.Client, images: ArrayDataset, demo: ModelSource, expected: list[int]) -> None:
    answer = client.post("/predict", content=png(images.read(5)), headers={"Accept": "text/plain"})
    assert demo.labels is not None
    assert answer.text == f"{demo.labels[expected[5]]}\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_an_image_of_a_size_that_is_spooled_elsewhere(client: httpx.Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (800, 900, 3), np.uint8)
    content = png(noise)
    assert len(content) > 2**20
    by_body, by_form = (
        client.post("/predict", content=content),
        client.post("/predict", files={"image": ("x", content)}),
    )
    assert by_body.json() == by_form.json()


def test_the_real_resnet50_says_what_evaluate_counts(shared: Path) -> None:
    source = resolve(str(shared / "models" / "resnet50-v1.onnx"))
    sample = shared / "data" / "imagenet-sample"
    inputs = open_inputs(source, data=sample, preprocess="imagenet", progress=Silent())
    dataset = inputs.dataset
    assert isinstance(dataset, FolderDataset)
    assert len(dataset) >= 500
    chosen = np.linspace(0, len(dataset) - 1, min(REAL_IMAGES, len(dataset))).round().astype(int)
    batches = load(dataset, chosen, inputs.preprocess, batch=1)
    answers, _ = logits(open_session(source.path, threads=2), batches)

    with (
        serving(str(source.path), "--preprocess", "imagenet", "--max-batch", "4") as server,
        server.client() as client,
        ThreadPoolExecutor(4) as pool,
    ):

        def ask(index: int) -> int:
            response = client.post("/predict", content=dataset.files[index].read_bytes())
            return int(response.raise_for_status().json()["predictions"][0]["index"])

        told = list(pool.map(ask, chosen))
    assert told == answers.argmax(axis=1).tolist()
