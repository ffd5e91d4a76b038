from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ranksmith.serve.frames import ELEMENT_BYTES
from ranksmith.serve.oip import datatypes
from ranksmith.serve.oip.datatypes import (
    DATATYPES,
    byte_size,
    check_data,
    datatype_name,
    decode_elements,
    encode_elements,
    join_elements,
    lookup,
    split_elements,
)

INTEGERS = ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
WITH_JSON = ["BOOL", *INTEGERS, "FP32", "FP64"]


def decoded(datatype: str, shape: tuple[int, ...], text: str) -> Any:
    return np.frombuffer(decode_elements(datatype, shape, text.encode()), lookup(datatype).dtype).tolist()


def test_public_names() -> None:
    assert datatypes.__all__ == sorted(datatypes.__all__)
    assert all(hasattr(datatypes, name) for name in datatypes.__all__)


def test_the_datatypes_are_those_that_frames_carry() -> None:
    assert set(DATATYPES) == set(ELEMENT_BYTES)
    assert {n: d.size_bytes for n, d in DATATYPES.items() if n != "BYTES"} == {
        n: size for n, size in ELEMENT_BYTES.items() if n != "BYTES"
    }


@pytest.mark.parametrize("name", sorted(set(DATATYPES) - {"BF16"}))
def test_a_numpy_dtype_names_its_datatype(name: str) -> None:
    dtype = DATATYPES[name].dtype
    assert dtype is not None
    assert datatype_name(dtype) == name
    assert datatype_name(dtype.newbyteorder(">")) == name


def test_text_and_bytes_are_bytes() -> None:
    assert {datatype_name(np.dtype(code)) for code in ("U3", "S3", "O")} == {"BYTES"}


def test_what_the_protocol_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="complex128"):
        datatype_name(np.dtype(np.complex128))
    with pytest.raises(ValueError, match="'FP8' is no datatype"):
        lookup("FP8")


def test_a_tensor_of_fixed_size_elements_has_a_size() -> None:
    assert byte_size("FP32", (1, 3, 224, 224)) == 602_112
    assert byte_size("BF16", (2**40, 2**40)) == 2**81
    assert byte_size("INT64", ()) == 8
    assert byte_size("BYTES", (3,)) is None


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_elements_round_trip(elements: list[bytes]) -> None:
    joined = join_elements(elements)
    assert joined == b"".join(struct.pack("<I", len(element)) + element for element in elements)
    assert [bytes(element) for element in split_elements(joined)] == elements
    check_data("BYTES", (len(elements),), joined)


@pytest.mark.parametrize("data", [b"\x01", b"\x01\0\0", b"\x02\0\0\0a", b"\0\0\0\0\xff\xff\xff\xff"])
def test_bytes_that_are_cut_off_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cut off"):
        split_elements(data)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", (2,), b"1234567", r"7 bytes where shape \[2\] of FP32 means 8"),
        ("BOOL", (3,), b"\0\1\2", "neither 0 nor 1"),
        ("BYTES", (2,), join_elements([b"a"]), "1 elements where"),
        ("BYTES", (1,), join_elements([b"a", b"b"]), "more elements where"),
    ],
)
def test_binary_data_of_another_shape_is_refused(datatype: str, shape: Any, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_data(datatype, shape, data)


def test_elements_may_be_flat_or_nested() -> None:
    assert decoded("INT32", (2, 1, 2), "[1, 2, 3, 4]") == [1, 2, 3, 4]
    assert decoded("INT32", (2, 1, 2), " [ [[1,2]],\n[[3,4]] ]") == [1, 2, 3, 4]
    assert decoded("FP32", (), "[2]") == [2.0]
    assert decoded("BOOL", (2,), "[true, false]") == [True, False]
    assert decode_elements("BYTES", (2, 1), '[["a,b"], ["é"]]'.encode()) == join_elements([b"a,b", "é".encode()])


@pytest.mark.parametrize(
    "text", ["[[1,2,3],[4]]", "[[1],[2],[3],[4]]", "[[[1,2],[3,4]]]", "[[1,2,3,4]]", "[[1,2],3,4]"]
)
def test_nesting_must_match_the_shape(text: str) -> None:
    with pytest.raises(ValueError, match=r"elements where shape \[2, 2\]|Expected"):
        decode_elements("INT32", (2, 2), text.encode())


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_keep_to_their_range(datatype: str) -> None:
    dtype = lookup(datatype).dtype
    assert dtype is not None
    limits = np.iinfo(dtype)
    low, high = int(limits.min), int(limits.max)
    assert decoded(datatype, (2,), f"[{low}, {high}]") == [low, high]
    for wrong in (low - 1, high + 1, 10**400):
        with pytest.raises(ValueError, match=f"is no {datatype}"):
            decode_elements(datatype, (2,), f"[0, {wrong}]".encode())


@pytest.mark.parametrize(
    ("datatype", "text", "message"),
    [
        ("INT64", "[1.5]", "Expected int, got float"),
        ("INT64", "[true]", "Expected int, got bool"),
        ("INT64", '["1"]', "Expected int, got str"),
        ("INT64", "[" + "9" * 5000 + "]", "out of range"),
        ("BOOL", "[1]", "Expected bool, got int"),
        ("BYTES", "[1]", "Expected str, got int"),
        ("FP32", "[NaN]", "malformed"),
        ("FP32", "[-Infinity]", "malformed"),
        ("FP32", "[null]", "Expected float, got null"),
        ("FP32", "[1e39]", r"1e\+39 is no FP32"),
        ("FP64", "[1e999]", "out of range"),
        ("FP32", "1", "Expected array"),
        ("FP32", "[]", "0 elements"),
        ("FP32", "[1,]", "elements where"),
        ("FP16", "[1]", "FP16 has no JSON form"),
        ("BF16", "[1]", "BF16 has no JSON form"),
        ("BYTES", '["\\ud800"]', "malformed|truncated|surrogate"),
        ("FP32", "[" * 10_000 + "]" * 10_000, "Expected|elements"),
    ],
)
def test_elements_of_another_type_are_refused(datatype: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_elements(datatype, (1,), text.encode())


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        decode_elements("BYTES", (1,), b'["\xff"]')


@pytest.mark.parametrize("text", [b"[1]", b"[" + b"1," * 1000 + b"1]"])
def test_a_wrong_count_is_refused_before_parsing(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datatypes, "_parse", pytest.fail)
    with pytest.raises(ValueError, match="elements where"):
        decode_elements("FP32", (2**62, 3), text)


@given(st.data())
@settings(deadline=None)
def test_json_elements_round_trip(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(WITH_JSON))
    dtype = lookup(name).dtype
    assert dtype is not None
    finite: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if name.startswith("FP") else {}
    shape = data.draw(npst.array_shapes(max_dims=4, max_side=4))
    array = data.draw(npst.arrays(dtype, shape, elements=npst.from_dtype(dtype, **finite)))
    values = encode_elements(name, array.tobytes())
    assert len(values) == math.prod(shape)
    assert bytes(decode_elements(name, shape, json.dumps(values).encode())) == array.tobytes()
    assert bytes(decode_elements(name, shape, json.dumps(array.tolist()).encode())) == array.tobytes()


@given(st.lists(st.text(max_size=10), min_size=1, max_size=5))
def test_strings_round_trip(texts: list[str]) -> None:
    data = decode_elements("BYTES", (len(texts),), json.dumps(texts).encode())
    assert encode_elements("BYTES", data) == texts


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_that_json_cannot_hold_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        encode_elements("FP32", np.array([1.0, value], "<f4").tobytes())


def test_bytes_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        encode_elements("BYTES", join_elements([b"\xff"]))
    with pytest.raises(ValueError, match="no JSON form"):
        encode_elements("FP16", b"\0\0")
