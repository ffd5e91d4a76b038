from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ranksmith.serve.frames import Tensor
from ranksmith.serve.oip import rest
from ranksmith.serve.oip.datatypes import DATATYPES, join_elements
from ranksmith.serve.oip.rest import decode, encode, parse_header_length
from ranksmith.serve.oip.signature import Asked, AskedOutput, InvalidRequestError, ModelSignature, TensorSpec

IMAGES = ModelSignature(
    "resnet", (TensorSpec("image", "FP32", (-1, 3, 2, 2)),), (TensorSpec("logits", "FP32", (-1, 5)),), max_batch=4
)
PAIR = ModelSignature(
    "pair",
    (TensorSpec("a", "UINT8", (-1, 2)), TensorSpec("b", "BYTES", (-1,))),
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "BYTES", (-1,)), TensorSpec("z", "INT64", (-1,))),
    max_batch=None,
)
HALF = ModelSignature("half", (TensorSpec("h", "FP16", (2,)),), (TensorSpec("h", "FP16", (2,)),), max_batch=None)


def entry(name: str = "image", shape: Any = (1, 3, 2, 2), datatype: Any = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, **more}


def binary(data: bytes, **more: Any) -> dict[str, Any]:
    return entry(parameters={"binary_data_size": len(data)}, **more)


def body(inputs: list[dict[str, Any]], data: bytes = b"", **more: Any) -> tuple[bytes, int]:
    header = json.dumps({"inputs": inputs, **more}).encode()
    return header + data, len(header)


def refusal(act: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        act(*arguments)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    return caught.value.message


def image_bytes(rows: int = 1) -> bytes:
    return np.arange(rows * 12, dtype="<f4").tobytes()


def test_public_names() -> None:
    assert rest.__all__ == sorted(rest.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(rest, name) for name in rest.__all__)


def test_a_json_request() -> None:
    data, _ = body([entry(data=list(range(12)))], id="42", parameters={"timeout": 5, "mine": "x"})
    asked = decode(data, None, IMAGES)
    (tensor,) = asked.tensors
    assert (tensor.name, tensor.datatype, tensor.shape) == ("image", "FP32", (1, 3, 2, 2))
    assert bytes(tensor.data) == image_bytes()
    assert asked == Asked("42", asked.tensors, (AskedOutput("logits", binary=False),), 1, {"timeout": 5, "mine": "x"})


def test_a_binary_tensor_is_a_view_of_the_body() -> None:
    data, length = body([binary(image_bytes(2), shape=(2, 3, 2, 2))], image_bytes(2))
    asked = decode(data, length, IMAGES)
    assert asked.rows == 2
    view = asked.tensors[0].data
    assert isinstance(view, memoryview)
    assert view.obj is data
    assert view == image_bytes(2)


def test_a_request_may_be_a_view() -> None:
    data, length = body([binary(image_bytes())], image_bytes())
    asked = decode(memoryview(b"x" + data)[1:], length, IMAGES)
    assert asked.tensors[0].data == image_bytes()


def test_tensors_come_in_the_order_of_the_signature() -> None:
    b = join_elements([b"one", b""])
    inputs = [
        binary(b, name="b", shape=[2], datatype="BYTES"),
        binary(b"1234", name="a", shape=[2, 2], datatype="UINT8"),
    ]
    data, length = body(inputs, b + b"1234")
    asked = decode(data, length, PAIR)
    assert [(tensor.name, bytes(tensor.data)) for tensor in asked.tensors] == [("a", b"1234"), ("b", b)]


def test_json_and_binary_tensors_may_be_mixed() -> None:
    inputs = [
        entry("b", [2], "BYTES", data=["one", "é"]),
        binary(b"1234", name="a", shape=[2, 2], datatype="UINT8"),
    ]
    data, length = body(inputs, b"1234")
    asked = decode(data, length, PAIR)
    assert bytes(asked.tensors[1].data) == join_elements([b"one", "é".encode()])
    assert asked.rows == 2


def test_nan_passes_in_binary_data() -> None:
    sent = np.full(12, np.nan, "<f4").tobytes()
    data, length = body([binary(sent)], sent)
    assert bytes(decode(data, length, IMAGES).tensors[0].data) == sent


@pytest.mark.parametrize(
    ("outputs", "parameters", "expected"),
    [
        (None, None, [("x", False), ("y", False), ("z", False)]),
        ([], {}, [("x", False), ("y", False), ("z", False)]),
        (None, {"binary_data_output": True}, [("x", True), ("y", True), ("z", True)]),
        ([{"name": "z"}, {"name": "x", "parameters": {"binary_data": True}}], None, [("z", False), ("x", True)]),
        (
            [{"name": "y", "parameters": {"binary_data": False}}, {"name": "x", "parameters": {"classification": 0}}],
            {"binary_data_output": True},
            [("y", False), ("x", True)],
        ),
    ],
)
def test_outputs_are_asked_for(outputs: Any, parameters: Any, expected: Any) -> None:
    inputs = [entry("a", [1, 2], "UINT8", data=[1, 2]), entry("b", [1], "BYTES", data=["x"])]
    data, _ = body(inputs, outputs=outputs, parameters=parameters, id=None)
    asked = decode(data, None, PAIR)
    assert [(output.name, output.binary) for output in asked.outputs] == expected
    assert asked.parameters == {}


def test_a_model_without_a_batch_dimension_has_one_row() -> None:
    data, length = body(
        [binary(b"1234", name="h", shape=[2], datatype="FP16")], b"1234", parameters={"binary_data_output": True}
    )
    assert decode(data, length, HALF).rows == 1
    assert not HALF.batched


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (entry("picture", data=[1]), ["input 'picture' is unknown", "'image'"]),
        (entry("p" * 10_000, data=[1]), ["input 'ppp"]),
        (entry(datatype="FP64", data=[1]), ["input 'image'", "FP32", "'FP64'"]),
        (entry(datatype="x" * 9999, data=[1]), ["input 'image'"]),
        (entry(shape=[3, 2, 2], data=[1]), ["input 'image' has 4 dimensions", "[3, 2, 2]"]),
        (entry(shape=[1] * 9999, data=[1]), ["input 'image' has 4 dimensions", "…"]),
        (entry(shape=[1, 3, 2, 4], data=[1]), ["input 'image'", "[-1, 3, 2, 2]", "[1, 3, 2, 4]"]),
        (entry(shape=[5, 3, 2, 2], data=[1]), ["input 'image' has 5 rows; at most 4"]),
        (entry(shape=[0, 3, 2, 2], data=[]), ["input 'image'", "at least 1"]),
        (entry(shape=[-1, 3, 2, 2], data=[]), ["input 'image'", "at least 1"]),
        (entry(shape=[1.0, 3, 2, 2], data=[]), ["inputs[0].shape[0]"]),
        (entry(shape=[10**400, 3, 2, 2], data=[]), ["inputs[0].shape[0]"]),
        (entry(shape=[2**63 - 1, 3, 2, 2], data=[1]), ["input 'image' has 9223372036854775807 rows"]),
        (entry(data=[1] * 11), ["input 'image'", "11 elements", "12"]),
        (entry(data=[1] * 13), ["input 'image'", "13 elements", "12"]),
        (entry(data=[1.5e39] * 12), ["input 'image'", "is no FP32"]),
        (entry(data={}), ["input 'image'", "elements"]),
        (entry(), ["input 'image' has neither 'data' nor"]),
        (entry(data=None, parameters=None), ["input 'image' has neither 'data' nor"]),
        (entry(data=[1] * 12, parameters={"binary_data_size": 48}), ["input 'image' has both"]),
        (entry(parameters={"shared_memory_region": "r"}), ["input 'image'", "shared memory"]),
        (entry(parameters={"binary_data_size": 47}), ["input 'image'", "47", "48"]),
        (entry(parameters={"binary_data_size": -1}), ["input 'image'", "-1"]),
        (entry(parameters={"binary_data_size": 10**400}), ["input 'image'", "64 bits"]),
        (entry(parameters={"binary_data_size": "48"}), ["binary_data_size", "Expected int"]),
        (entry(parameters={"binary_data_size": True}), ["binary_data_size", "Expected int"]),
        (entry(parameters={"binary_data_size": 48}), ["input 'image'", "0 bytes of the body are left"]),
    ],
)
def test_an_input_that_does_not_fit_is_refused(given: dict[str, Any], words: list[str]) -> None:
    data, length = body([given])
    for header_length in (None, length):
        message = refusal(decode, data, header_length, IMAGES)
        for word in words:
            assert word in message


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_huge_shape_is_refused_before_anything_is_allocated(datatype: str) -> None:
    free = ModelSignature("free", (TensorSpec("x", datatype, (-1,) * 4),), (), max_batch=None)
    huge = [2**62] * 4
    data, _ = body([entry("x", huge, datatype, data=["a"])])
    assert "input 'x'" in refusal(decode, data, None, free)
    size = 2**250
    data, length = body([entry("x", huge, datatype, parameters={"binary_data_size": size})], b"1234")
    assert "input 'x'" in refusal(decode, data, length, free)
    data, length = body([binary(b"\0\0\0\0", name="x", shape=huge, datatype=datatype)], b"\0\0\0\0")
    assert "input 'x'" in refusal(decode, data, length, free)


def test_missing_repeated_and_uneven_inputs_are_refused() -> None:
    a, b = entry("a", [1, 2], "UINT8", data=[1, 2]), entry("b", [2], "BYTES", data=["x", "y"])
    assert refusal(decode, body([a])[0], None, PAIR) == "input 'b' is missing"
    assert refusal(decode, body([])[0], None, PAIR) == "input 'a' is missing"
    assert refusal(decode, body([a, b, a])[0], None, PAIR) == "input 'a' is given twice"
    assert refusal(decode, body([a, b])[0], None, PAIR) == "input 'b' has 2 rows where input 'a' has 1"


def test_bytes_that_do_not_add_up_are_refused() -> None:
    data, length = body([binary(image_bytes())], image_bytes())
    assert "1 bytes of the body belong to no input" in refusal(decode, data + b"x", length, IMAGES)
    assert "47 bytes of the body are left" in refusal(decode, data[:-1], length, IMAGES)
    assert "needs the header" in refusal(decode, data, None, IMAGES)
    for wrong in (-1, len(data) + 1, 10**30):
        assert "Inference-Header-Content-Length" in refusal(decode, data, wrong, IMAGES)
    for cut in (length - 1, length + 1, 1):
        refusal(decode, data, cut, IMAGES)


def test_bytes_elements_that_do_not_add_up_are_refused() -> None:
    a = entry("a", [2, 2], "UINT8", data=[1, 2, 3, 4])
    for sent in (b"", b"\1", join_elements([b"one"]), join_elements([b""] * 3), b"\xff\xff\xff\xff"):
        data, length = body([a, binary(sent, name="b", shape=[2], datatype="BYTES")], sent)
        assert "input 'b'" in refusal(decode, data, length, PAIR)


@pytest.mark.parametrize(
    "where", ['{"inputs":%s}', '{"inputs":[],"extra":%s}', "%s", '{"parameters":{"a":%s},"inputs":[]}']
)
def test_deep_nesting_is_refused(where: str) -> None:
    for deep in ("[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "[" * 10_000):
        refusal(decode, (where % deep).encode(), None, IMAGES)
    nested = entry(data=0)
    text = json.dumps({"inputs": [nested]}).replace('"data": 0', '"data": ' + "[" * 10_000 + "]" * 10_000)
    refusal(decode, text.encode(), None, IMAGES)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "not JSON"),
        (b"{}", "inputs"),
        (b"[]", "Expected object"),
        (b'{"inputs": [{"name": "image"}]}', "datatype"),
        (b'{"inputs": [], "id": 7}', "id"),
        (b'{"inputs": [], "parameters": {"a": [1]}}', "parameters"),
        (b'{"inputs": [], "id": "\xff"}', "UTF-8"),
        (b'{"inputs": [], "extra": NaN}', "not JSON"),
        (b'\xef\xbb\xbf{"inputs": []}', "not JSON"),
    ],
)
def test_json_that_is_no_request_is_refused(text: bytes, word: str) -> None:
    assert word in refusal(decode, text, None, IMAGES)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_such_numbers(value: str) -> None:
    data, _ = body([entry(data=[0] * 12)])
    mutated = data.replace(b"[0,", f"[{value},".encode())
    assert mutated != data
    refusal(decode, mutated, None, IMAGES)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"outputs": [{"name": "nope"}]}, "output 'nope' is unknown"),
        ({"outputs": [{"name": "logits"}, {"name": "logits"}]}, "output 'logits' is asked for twice"),
        ({"outputs": [{"name": "logits", "parameters": {"classification": 3}}]}, "output 'logits': 'classification'"),
        ({"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}]}, "shared memory"),
        ({"outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]}, "binary_data"),
        ({"parameters": {"binary_data_output": "yes"}}, "binary_data_output"),
    ],
)
def test_outputs_that_cannot_be_sent_are_refused(more: dict[str, Any], word: str) -> None:
    assert word in refusal(decode, body([entry(data=[1] * 12)], **more)[0], None, IMAGES)


def test_half_floats_travel_only_as_binary_data() -> None:
    data, _ = body([entry("h", [2], "FP16", data=[1, 2])])
    assert "FP16 has no JSON form" in refusal(decode, data, None, HALF)
    data, length = body([binary(b"1234", name="h", shape=[2], datatype="FP16")], b"1234")
    assert "output 'h' is FP16" in refusal(decode, data, length, HALF)


@pytest.mark.parametrize("value", ["", "x", "-1", "+1", "1.0", "1e3", "٣", "9" * 5000, "1 2"])
def test_a_header_length_must_be_a_number(value: str) -> None:
    assert "Inference-Header-Content-Length" in refusal(parse_header_length, value)


def test_a_header_length_is_read() -> None:
    assert parse_header_length(None) is None
    assert parse_header_length(" 17 ") == 17


def test_a_header_length_of_zero_makes_the_body_one_row() -> None:
    asked = decode(image_bytes(), 0, IMAGES)
    assert (asked.rows, asked.tensors[0].shape, bytes(asked.tensors[0].data)) == (1, (1, 3, 2, 2), image_bytes())
    assert asked.outputs == (AskedOutput("logits", binary=True),)
    photo = ModelSignature("photo", (TensorSpec("jpeg", "BYTES", (-1, 1)),), (), max_batch=8)
    asked = decode(b"\xff\xd8", 0, photo)
    assert (asked.tensors[0].shape, asked.tensors[0].data) == ((1, 1), join_elements([b"\xff\xd8"]))
    text = ModelSignature("text", (TensorSpec("ids", "INT64", (-1, -1)),), (), max_batch=8)
    assert decode(bytes(24), 0, text).tensors[0].shape == (1, 3)


def test_a_body_that_is_not_one_row_is_refused() -> None:
    assert "input 'image'" in refusal(decode, image_bytes(2), 0, IMAGES)
    assert "one input" in refusal(decode, b"", 0, PAIR)
    free = ModelSignature("free", (TensorSpec("x", "INT64", (-1, -1, -1)),), (), max_batch=8)
    assert "input 'x'" in refusal(decode, bytes(8), 0, free)
    text = ModelSignature("text", (TensorSpec("ids", "INT64", (-1, -1)),), (), max_batch=8)
    for wrong in (b"", bytes(9)):
        assert "input 'ids'" in refusal(decode, wrong, 0, text)
    words = ModelSignature("words", (TensorSpec("w", "BYTES", (-1, 3)),), (), max_batch=8)
    assert "input 'w'" in refusal(decode, b"a", 0, words)


X = Tensor("x", "FP32", (2, 2), np.array([0.1, 1e-40, -3.4e38, 7], "<f4").tobytes())
Y = Tensor("y", "BYTES", (2,), join_elements([b"cat", "é".encode()]))
Z = Tensor("z", "INT64", (1,), np.array([2**63 - 1], "<i8").data)


def asking(*outputs: tuple[str, bool]) -> Asked:
    return Asked(None, (), tuple(AskedOutput(name, binary) for name, binary in outputs), 1, {})


def test_a_json_response() -> None:
    parts, length = encode("m", "3", "id7", [X, Y, Z], asking(("y", False), ("x", False), ("z", False)), {"g": 1})
    assert length is None
    (text,) = parts
    answer = json.loads(bytes(text))
    outputs = answer.pop("outputs")
    assert answer == {"model_name": "m", "model_version": "3", "id": "id7", "parameters": {"g": 1}}
    assert outputs[0] == {"name": "y", "datatype": "BYTES", "shape": [2], "data": ["cat", "é"]}
    assert np.array(outputs[1]["data"], "<f4").tobytes() == X.data
    assert outputs[2]["data"] == [2**63 - 1]


def test_a_binary_response() -> None:
    parts, length = encode("m", "3", None, [X, Y, Z], asking(("z", True), ("x", False), ("y", True)))
    assert length == len(parts[0])
    answer = json.loads(bytes(parts[0]))
    assert set(answer) == {"model_name", "model_version", "outputs"}
    assert [output.get("parameters") for output in answer["outputs"]] == [
        {"binary_data_size": 8},
        None,
        {"binary_data_size": len(Y.data)},
    ]
    assert ["data" in output for output in answer["outputs"]] == [False, True, False]
    assert [bytes(part) for part in parts[1:]] == [bytes(Z.data), Y.data]
    assert all(len(part) == memoryview(part).nbytes for part in parts)


def test_binary_data_of_a_response_is_not_copied() -> None:
    parts, _ = encode("m", "1", None, [X], asking(("x", True)))
    assert isinstance(parts[1], memoryview)
    assert parts[1].obj is X.data


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_output_that_json_cannot_hold_is_refused(value: float) -> None:
    tensor = Tensor("x", "FP32", (1,), np.array([value], "<f4").tobytes())
    message = refusal(encode, "m", "1", None, [tensor], asking(("x", False)))
    assert message == "output 'x': has NaN or infinity, which JSON cannot hold; ask for it with 'binary_data': true"
    assert encode("m", "1", None, [tensor], asking(("x", True)))[0][1] == tensor.data


def test_a_tensor_that_is_not_what_it_says_is_our_own_fault() -> None:
    with pytest.raises(ValueError, match="output x has 1 elements"):
        encode("m", "1", None, [Tensor("x", "UINT8", (2,), b"1")], asking(("x", False)))


@st.composite
def models_with_tensors(draw: st.DrawFn, only_json: bool) -> tuple[ModelSignature, list[Tensor]]:
    names = draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3, unique=True))
    rows = draw(st.integers(1, 3))
    tensors = []
    for name in names:
        kinds = [d for d in DATATYPES.values() if d.name != "BF16" and not (only_json and d.json_type is None)]
        kind = draw(st.sampled_from(kinds))
        shape = (rows, *draw(npst.array_shapes(min_dims=0, max_dims=2, max_side=3)))
        if kind.json_type is str:
            count = math.prod(shape)
            element = st.text(max_size=4).map(str.encode) if only_json else st.binary(max_size=4)
            data = join_elements(draw(st.lists(element, min_size=count, max_size=count)))
        else:
            assert kind.dtype is not None
            finite: dict[str, Any] = (
                {"allow_nan": False, "allow_infinity": False} if only_json and kind.dtype.kind == "f" else {}
            )
            data = draw(npst.arrays(kind.dtype, shape, elements=npst.from_dtype(kind.dtype, **finite))).tobytes()
        tensors.append(Tensor(name, kind.name, shape, data))
    specs = tuple(TensorSpec(tensor.name, tensor.datatype, (-1, *tensor.shape[1:])) for tensor in tensors)
    return ModelSignature("echo", specs, specs, None), tensors


def echo(tensors: list[Tensor], signature: ModelSignature, *, binary: bool) -> Asked:
    """Encode tensors as a response, which reads as a request when its outputs are called inputs; decode that."""
    asked = asking(*((tensor.name, binary) for tensor in tensors))
    parts, length = encode("echo", "1", "id", tensors, asked)
    answer = json.loads(bytes(parts[0]))
    answer["inputs"] = answer.pop("outputs")
    answer["parameters"] = {"binary_data_output": True}
    header = json.dumps(answer).encode()
    request = b"".join([header, *parts[1:]])
    return decode(request, None if length is None else len(header), signature)


@given(models_with_tensors(only_json=False))
@settings(deadline=None)
def test_binary_tensors_round_trip(model: tuple[ModelSignature, list[Tensor]]) -> None:
    signature, tensors = model
    asked = echo(tensors, signature, binary=True)
    assert [(t.name, t.datatype, t.shape, bytes(t.data)) for t in asked.tensors] == [
        (t.name, t.datatype, t.shape, t.data) for t in tensors
    ]
    assert asked.rows == tensors[0].shape[0]


@given(models_with_tensors(only_json=True))
@settings(deadline=None)
def test_json_tensors_round_trip(model: tuple[ModelSignature, list[Tensor]]) -> None:
    signature, tensors = model
    asked = echo(tensors, signature, binary=False)
    assert [(t.name, t.datatype, t.shape, bytes(t.data)) for t in asked.tensors] == [
        (t.name, t.datatype, t.shape, t.data) for t in tensors
    ]


def attempt(data: bytes, header_length: int | None, signature: ModelSignature) -> None:
    message = "answered"
    try:
        decode(data, header_length, signature)
    except InvalidRequestError as error:
        message = error.message
    assert message
    assert "\n" not in message


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
@settings(deadline=None)
def test_any_bytes_give_an_answer_or_a_refusal(data: bytes, header_length: int | None) -> None:
    for signature in (IMAGES, PAIR, HALF):
        attempt(data, header_length, signature)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_any_json_in_the_place_of_a_field_gives_an_answer_or_a_refusal(data: st.DataObject) -> None:
    value = data.draw(JSON_VALUES)
    request: dict[str, Any] = {
        "id": "1",
        "inputs": [
            entry("a", [1, 2], "UINT8", data=[1, 2]),
            binary(join_elements([b"x"]), name="b", shape=[1], datatype="BYTES"),
        ],
        "outputs": [{"name": "x", "parameters": {"binary_data": True}}],
        "parameters": {"binary_data_output": False},
    }
    holder: Any = request
    while True:
        key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else list(range(len(holder)))))
        if isinstance(holder[key], (dict, list)) and holder[key] and data.draw(st.booleans()):
            holder = holder[key]
            continue
        holder[key] = value
        break
    header = json.dumps(request).encode()
    attempt(header + join_elements([b"x"]), len(header), PAIR)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_mutated_body_gives_an_answer_or_a_refusal(data: st.DataObject) -> None:
    b = join_elements([b"x", b"yz"])
    inputs = [entry("a", [2, 2], "UINT8", data=[[1, 2], [3, 4]]), binary(b, name="b", shape=[2], datatype="BYTES")]
    sent, length = body(inputs, b, parameters={"binary_data_output": True})
    mutated = bytearray(sent)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    attempt(bytes(mutated), data.draw(st.sampled_from([length, None, length + len(mutated) - len(sent)])), PAIR)
