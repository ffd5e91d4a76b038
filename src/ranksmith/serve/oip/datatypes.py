"""The datatypes of the Open Inference Protocol: their names, their numpy dtypes, their two forms.

In binary form, elements are little-endian and row-major without padding; a BOOL is one byte, 0 or 1; an element of
BYTES is its length as four little-endian bytes, then itself. In JSON form, they are a flat list, or lists nested as
the shape says. FP16 and BF16 have no JSON form, and BF16 has no numpy dtype.

Errors are `ValueError`s that say what is wrong with the elements; whoever catches them adds the tensor's name.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from types import GenericAlias
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DATATYPES",
    "Datatype",
    "byte_size",
    "check_data",
    "datatype_name",
    "decode_elements",
    "encode_elements",
    "join_elements",
    "lookup",
    "split_elements",
    "takes_any_bytes",
]

_LENGTH = struct.Struct("<I")
_NESTED = re.compile(rb"\s*\[\s*\[")
_LONGEST_VALUE = 40


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype; `size_bytes` is None where elements differ in length, `json_type` where there is no JSON form."""

    name: str
    dtype: np.dtype[Any] | None
    size_bytes: int | None
    json_type: type[bool] | type[int] | type[float] | type[str] | None


def _number(name: str, code: str, json_type: type[bool] | type[int] | type[float] | None) -> Datatype:
    dtype = np.dtype(code)
    return Datatype(name, dtype, dtype.itemsize, json_type)


_ALL = (
    _number("BOOL", "?", bool),
    _number("UINT8", "<u1", int),
    _number("UINT16", "<u2", int),
    _number("UINT32", "<u4", int),
    _number("UINT64", "<u8", int),
    _number("INT8", "<i1", int),
    _number("INT16", "<i2", int),
    _number("INT32", "<i4", int),
    _number("INT64", "<i8", int),
    _number("FP16", "<f2", None),
    _number("FP32", "<f4", float),
    _number("FP64", "<f8", float),
    Datatype("BF16", None, 2, None),
    Datatype("BYTES", np.dtype(object), None, str),
)

DATATYPES: Mapping[str, Datatype] = {datatype.name: datatype for datatype in _ALL}

_NAMES = {datatype.dtype: datatype.name for datatype in _ALL if datatype.dtype is not None}


def lookup(name: str) -> Datatype:
    """The datatype of that name."""
    try:
        return DATATYPES[name]
    except KeyError:
        raise ValueError(f"{_short(repr(name))} is no datatype; these are: {', '.join(DATATYPES)}") from None


def datatype_name(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a numpy dtype; text, bytes and objects are BYTES."""
    if dtype.kind in "SUO":
        return "BYTES"
    try:
        return _NAMES[dtype.newbyteorder("<")]
    except KeyError:
        raise ValueError(f"the protocol has no datatype for numpy's {dtype}") from None


def byte_size(datatype: str, shape: Sequence[int]) -> int | None:
    """How many bytes a tensor takes in binary form; None for BYTES."""
    size_bytes = lookup(datatype).size_bytes
    return None if size_bytes is None else size_bytes * math.prod(shape)


def join_elements(elements: Iterable[bytes | memoryview]) -> bytes:
    """The binary form of elements of BYTES."""
    return b"".join(chain.from_iterable((_LENGTH.pack(len(element)), element) for element in elements))


def split_elements(data: bytes | bytearray | memoryview) -> list[memoryview]:
    """The elements of a BYTES tensor in binary form, as views of it."""
    view = memoryview(data).cast("B")
    return [view[begin:end] for begin, end in _spans(view)]


def takes_any_bytes(datatype: str) -> bool:
    """Whether `check_data` looks at nothing but how many there are."""
    kind = lookup(datatype)
    return kind.size_bytes is not None and kind.json_type is not bool


def check_data(datatype: str, shape: Sequence[int], data: bytes | bytearray | memoryview) -> None:
    """Refuse binary data that is no tensor of this datatype and shape."""
    kind = lookup(datatype)
    view = memoryview(data)
    count = math.prod(shape)
    if kind.size_bytes is None:
        elements = sum(1 for _ in islice(_spans(view.cast("B")), count + 1 if count < view.nbytes else None))
        if elements != count:
            number = "more" if elements > count else str(elements)
            raise ValueError(f"has {number} elements where {_shown(shape)} means {count}")
    elif view.nbytes != count * kind.size_bytes:
        raise ValueError(f"has {view.nbytes} bytes where {_shown(shape)} of {datatype} means {count * kind.size_bytes}")
    elif kind.json_type is bool and count and int(np.frombuffer(view, np.uint8).max()) > 1:
        raise ValueError("has a BOOL that is neither 0 nor 1")


def decode_elements(datatype: str, shape: Sequence[int], text: bytes | memoryview | msgspec.Raw) -> memoryview:
    """The binary form of a tensor given as a JSON list, flat or nested as its shape."""
    kind = lookup(datatype)
    if kind.json_type is None:
        raise ValueError(f"{datatype} has no JSON form; send it as binary data")
    view = memoryview(text)
    count = math.prod(shape)
    # Commas stand between any two elements, nested or not, so that a wrong count is refused before parsing allocates.
    # In strings there may be more, but a string takes little more memory than its text.
    elements = int(np.count_nonzero(np.frombuffer(view, np.uint8) == ord(","))) + 1
    if elements < count or (elements > count and kind.json_type is not str):
        raise ValueError(f"has {elements} elements where {_shown(shape)} means {count}")
    nested = len(shape) > 1 and _NESTED.match(view) is not None
    values = _parse(kind.json_type, len(shape) if nested else 1, view)
    return _pack(kind, _flatten(values, shape if nested else (count,), shape))


def encode_elements(datatype: str, data: bytes | bytearray | memoryview) -> list[Any]:
    """The flat JSON list of a tensor in binary form; what JSON cannot hold is refused."""
    kind = lookup(datatype)
    if kind.json_type is None:
        raise ValueError(f"{datatype} has no JSON form")
    if kind.json_type is str:
        try:
            return [str(element, "utf-8") for element in split_elements(data)]
        except UnicodeDecodeError:
            raise ValueError("has an element that is not UTF-8 text, which JSON cannot hold") from None
    array: NDArray[Any] = np.frombuffer(data, kind.dtype)
    if kind.json_type is float and not np.isfinite(array).all():
        raise ValueError("has NaN or infinity, which JSON cannot hold")
    values: list[Any] = array.tolist()
    return values


def _spans(view: memoryview) -> Iterator[tuple[int, int]]:
    start = number = 0
    while start < len(view):
        begin = start + _LENGTH.size
        if begin > len(view):
            raise ValueError(f"element {number} is cut off in its length")
        start = begin + _LENGTH.unpack_from(view, start)[0]
        if start > len(view):
            raise ValueError(f"element {number} is cut off: its length reaches past the end of the tensor")
        yield begin, start
        number += 1


@lru_cache(maxsize=64)
def _decoder(json_type: Any, depth: int) -> msgspec.json.Decoder[list[Any]]:
    nested = json_type
    for _ in range(depth):
        nested = GenericAlias(list, (nested,))
    return msgspec.json.Decoder(nested)


def _parse(json_type: Any, depth: int, view: memoryview) -> list[Any]:
    try:
        return _decoder(json_type, depth).decode(view)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error).replace("`", "")) from None


def _flatten(values: list[Any], nesting: Sequence[int], shape: Sequence[int]) -> list[Any]:
    level: list[Any] = [values]
    for length in nesting:
        wrong = next((len(part) for part in level if len(part) != length), None)
        if wrong is not None:
            raise ValueError(f"has {wrong} elements where {_shown(shape)} means {length}")
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))
    return level


def _pack(kind: Datatype, values: list[Any]) -> memoryview:
    if kind.json_type is str:
        return memoryview(join_elements(value.encode() for value in values))
    if kind.json_type is int:
        array = _integers(kind, values)
    elif kind.json_type is float:
        array = _floats(kind, values)
    else:
        array = np.array(values, kind.dtype)
    return array.view(np.uint8).data


def _integers(kind: Datatype, values: list[int]) -> NDArray[Any]:
    try:
        return np.array(values, kind.dtype)
    except OverflowError:
        assert kind.dtype is not None
        limits = np.iinfo(kind.dtype)
        wrong = next(value for value in values if not int(limits.min) <= value <= int(limits.max))
        raise ValueError(f"{_short(str(wrong))} is no {kind.name}") from None


def _floats(kind: Datatype, values: list[float]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        array = np.array(values, np.float64).astype(kind.dtype)
    finite = np.isfinite(array)
    if not finite.all():
        raise ValueError(f"{values[int(finite.argmin())]!r} is no {kind.name}")
    return array


def _shown(shape: Sequence[int]) -> str:
    return f"shape [{', '.join(map(str, shape))}]"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
