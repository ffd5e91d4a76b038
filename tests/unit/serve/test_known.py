"""Requests whose JSON is known mean what they meant when it was read."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksmith.serve.oip.known import KnownRequests
from ranksmith.serve.oip.rest import decode
from ranksmith.serve.oip.signature import Asked, InvalidRequestError, ModelSignature, TensorSpec

OUTPUTS = (TensorSpec("y", "FP32", (-1, 2)),)
ONE = ModelSignature("m", (TensorSpec("x", "FP32", (-1, 4)),), OUTPUTS, 8)
TWO = ModelSignature("m", (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("z", "FP32", (-1, 4))), OUTPUTS, 8)
FLAGS = ModelSignature("m", (TensorSpec("x", "BOOL", (-1, 4)),), OUTPUTS, 8)


def body(rows: int, value: float, **more: object) -> tuple[bytes, int]:
    data = np.full((rows, 4), value, np.float32).tobytes()
    head = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 4], "parameters": {"binary_data_size": len(data)}}]
    }
    text = msgspec.json.encode(head | more)
    return text + data, len(text)


def shown(asked: Asked) -> tuple[object, ...]:
    tensors = [(each.name, each.datatype, each.shape, bytes(each.data)) for each in asked.tensors]
    return asked.id, tensors, asked.outputs, asked.rows, asked.parameters


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(-9, 9, width=32), st.sampled_from([None, 5, 7])), max_size=30))
def test_every_request_is_read_as_if_it_were_the_first(asked: list[tuple[int, float, int | None]]) -> None:
    known = KnownRequests(ONE)
    for rows, value, timeout in asked:
        content, length = body(rows, value, **({} if timeout is None else {"parameters": {"timeout": timeout}}))
        assert shown(known.decode(memoryview(content), length)) == shown(decode(content, length, ONE))


def test_an_id_stays_that_of_its_request() -> None:
    known = KnownRequests(ONE)
    for name in ("a", "b", "a"):
        content, length = body(1, 0.0, id=name)
        assert known.decode(memoryview(content), length).id == name


def test_known_json_with_too_few_or_too_many_bytes_is_refused() -> None:
    known = KnownRequests(ONE)
    content, length = body(2, 1.0)
    known.decode(memoryview(content), length)
    for wrong in (content[:-1], content + b"\0"):
        with pytest.raises(InvalidRequestError):
            known.decode(memoryview(wrong), length)


def test_data_that_has_to_be_looked_into_is_looked_into_every_time() -> None:
    known = KnownRequests(FLAGS)
    head = {"inputs": [{"name": "x", "datatype": "BOOL", "shape": [1, 4], "parameters": {"binary_data_size": 4}}]}
    text = msgspec.json.encode(head)
    known.decode(memoryview(text + bytes(4)), len(text))
    with pytest.raises(InvalidRequestError):
        known.decode(memoryview(text + b"\x02\0\0\0"), len(text))


def test_several_inputs_are_each_given_their_own() -> None:
    known = KnownRequests(TWO)
    data = {name: np.full((1, 4), value, np.float32).tobytes() for name, value in (("x", 1.0), ("z", 2.0))}
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
        for name in ("z", "x")
    ]
    text = msgspec.json.encode({"inputs": inputs})
    for _ in range(2):
        asked = known.decode(memoryview(text + data["z"] + data["x"]), len(text))
        assert {each.name: bytes(each.data) for each in asked.tensors} == data
