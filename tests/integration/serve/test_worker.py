"""A worker's loop, asked over a real link."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ranksmith.serve.frames import Frame, Kind, Tensor
from ranksmith.serve.listener import listen
from ranksmith.serve.messages import Ask, WorkerSpec, dumps
from ranksmith.serve.transport import connect
from ranksmith.serve.worker.loop import WorkerLoop
from ranksmith.serve.worker.model import ServedModel

pytestmark = pytest.mark.usefixtures("thread")
TABLE = np.arange(8, dtype=np.float32) * 10


@pytest.fixture(params=["the event loop's", "the session's"])
def thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them runs batches."""
    if request.param == "the session's":
        monkeypatch.setattr("ranksmith.serve.worker.loop._HERE_MS", 0.0)


def lookup(path: Path) -> Path:
    """A model that fails on what it is asked: x[n, 1] → TABLE[x]."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def test_what_the_model_cannot_be_run_on_takes_nobody_else_down(tmp_path: Path) -> None:
    asked = [1, 2, 99, 3, 4]

    async def work() -> dict[int, Frame]:
        spec = WorkerSpec(name="lookup", model=str(lookup(tmp_path / "lookup.onnx")), generation=1)
        model = ServedModel.open(spec)
        model.limit = len(asked)
        loop = WorkerLoop(model)
        loop.start()
        answers: dict[int, Frame] = {}
        all_there = asyncio.Event()

        def on_frame(link: object, frame: Frame) -> None:
            if frame.kind is not Kind.HELLO:
                answers[frame.request] = frame
                if len(answers) == len(asked):
                    all_there.set()

        async with await listen(tmp_path / "s", loop.on_link, loop.on_frame, loop.on_lost):
            link = await connect(tmp_path / "s", on_frame=on_frame, on_lost=lambda link, error: None)
            frames = [
                Frame(
                    Kind.INFER,
                    number,
                    1,
                    meta=dumps(Ask()),
                    tensors=(Tensor("x", "INT64", (1, 1), np.array([number], np.int64).tobytes()),),
                )
                for number in asked
            ]
            link.send(*frames)
            await asyncio.wait_for(all_there.wait(), 30)
            link.close()
            return answers

    answers = asyncio.run(work())
    assert answers[99].kind is Kind.FAILURE
    for number in (1, 2, 3, 4):
        assert answers[number].kind is Kind.RESULT, number
        assert np.frombuffer(answers[number].tensors[0].data, np.float32) == TABLE[number]


def test_requests_of_one_frame_are_answered_together_but_for_what_is_cancelled_or_cannot_be_run(tmp_path: Path) -> None:
    async def work() -> dict[int, Frame]:
        spec = WorkerSpec(name="lookup", model=str(lookup(tmp_path / "lookup.onnx")), generation=1)
        loop = WorkerLoop(ServedModel.open(spec))
        loop.model.limit = 4
        answers: dict[int, Frame] = {}
        all_there = asyncio.Event()

        def on_frame(link: object, frame: Frame) -> None:
            if frame.kind is not Kind.HELLO:
                answers.update(dict.fromkeys(frame.requests, frame))
                if len(answers) == 6:
                    all_there.set()

        def asked(*numbers: int) -> Frame:
            x = Tensor("x", "INT64", (len(numbers), 1), np.array(numbers, np.int64).tobytes())
            return Frame(Kind.INFER, numbers[0], 1, meta=dumps(Ask()), tensors=(x,), others=numbers[1:])

        async with await listen(tmp_path / "s", loop.on_link, loop.on_frame, loop.on_lost):
            link = await connect(tmp_path / "s", on_frame=on_frame, on_lost=lambda link, error: None)
            link.send(asked(1, 2, 3, 4), Frame(Kind.CANCEL, 3, 1), asked(5, 99, 6))
            loop.start()
            await asyncio.wait_for(all_there.wait(), 30)
            link.close()
            return answers

    answers = asyncio.run(work())
    assert (answers[1].kind, answers[1].requests) == (Kind.RESULT, (1, 2, 4))
    assert np.frombuffer(answers[1].tensors[0].data, np.float32).tolist() == TABLE[[1, 2, 4]].tolist()
    assert 3 not in answers
    assert answers[99].kind is Kind.FAILURE
    for number in (5, 6):
        assert np.frombuffer(answers[number].tensors[0].data, np.float32) == TABLE[number]
