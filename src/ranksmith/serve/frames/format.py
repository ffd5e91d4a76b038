"""What a frame is, and how it lies on the wire.

In network byte order:

    header       magic "RSFR", version, kind, number of tensors, request, number of others, generation, deadline,
                 bytes of meta, bytes of descriptors, bytes of payload
    others       the other requests that it belongs to
    descriptors  for each tensor: datatype, ndim, bytes of name, bytes of data; dimensions; name in UTF-8
    meta         opaque to these modules
    payload      each tensor's data, padded to a multiple of 8 bytes so that every element is aligned
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

__all__ = [
    "CODES",
    "DATATYPES",
    "DEFAULT_LIMITS",
    "DESCRIPTOR",
    "DIMENSIONS",
    "ELEMENT_BYTES",
    "HEADER",
    "KINDS",
    "MAGIC",
    "REQUEST_BYTES",
    "VERSION",
    "Frame",
    "FrameError",
    "Kind",
    "Limits",
    "Tensor",
    "check_deadline",
    "check_size",
    "padding_after",
]

MAGIC = b"RSFR"
VERSION = 2
HEADER = struct.Struct("!4sBBHQHIdIIQ")
DESCRIPTOR = struct.Struct("!BBHQ")
# By ndim, which is one byte.
DIMENSIONS = tuple(struct.Struct(f"!{ndim}Q") for ndim in range(256))

REQUEST_BYTES = 8

_DIMENSION_BYTES = 8
_ALIGNMENT = 8
_LARGEST = 2**63 - 1
_BYTES = "BYTES"
# The position in this mapping is the datatype's code on the wire: append only.
ELEMENT_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 1,
        "UINT8": 1,
        "UINT16": 2,
        "UINT32": 4,
        "UINT64": 8,
        "INT8": 1,
        "INT16": 2,
        "INT32": 4,
        "INT64": 8,
        "FP16": 2,
        "FP32": 4,
        "FP64": 8,
        "BF16": 2,
        _BYTES: 1,  # an element's size is its own affair; 1 only bounds the shape
    }
)
DATATYPES = tuple(ELEMENT_BYTES)
CODES = {datatype: code for code, datatype in enumerate(DATATYPES)}


class FrameError(Exception):
    """A frame that the format cannot hold, or bytes that are not a frame."""


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1
    INFER = 2
    IMAGE = 3
    CANCEL = 4
    RESULT = 5
    FAILURE = 6
    CONTROL = 7


KINDS: Mapping[int, Kind] = MappingProxyType({kind.value: kind for kind in Kind})


class Tensor(NamedTuple):
    """A named tensor.

    Attributes:
        name: at most 256 bytes of UTF-8 under the default limits.
        datatype: an Open Inference Protocol name, a key of `ELEMENT_BYTES`.
        shape: the dimensions, none negative.
        data: row-major and C-contiguous; little-endian by the protocol, which this module leaves to its users.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview


class Frame(NamedTuple):
    """One message.

    Attributes:
        kind: what it is for.
        request: which request it belongs to, 64 bits.
        generation: which model generation it belongs to, 32 bits.
        deadline_s: seconds on CLOCK_MONOTONIC, 0 for none.
        meta: anything else, in an encoding that sender and receiver agree on.
        tensors: inputs or outputs.
        others: requests that it belongs to as well, of the same kind as the first; their tensors are stacked behind
            the first one's, along the first dimension and in this order.
    """

    kind: Kind
    request: int = 0
    generation: int = 0
    deadline_s: float = 0.0
    meta: bytes = b""
    tensors: tuple[Tensor, ...] = ()
    others: tuple[int, ...] = ()

    @property
    def requests(self) -> tuple[int, ...]:
        """All that it belongs to."""
        return (self.request, *self.others)


@dataclass(frozen=True)
class Limits:
    """What a decoder accepts in one frame."""

    meta_bytes: int = 2**20
    requests: int = 1024
    tensors: int = 64
    dimensions: int = 8
    name_bytes: int = 256
    payload_bytes: int = 2**30

    @property
    def descriptor_bytes(self) -> int:
        """The largest that one tensor's descriptor can be."""
        return DESCRIPTOR.size + self.dimensions * _DIMENSION_BYTES + self.name_bytes


DEFAULT_LIMITS = Limits()


def padding_after(size: int) -> int:
    """Bytes between a tensor's data and the next one's."""
    return -size % _ALIGNMENT


def check_deadline(deadline_s: float) -> None:
    """Refuse what is no time; a NaN is not even equal to itself."""
    if not 0 <= deadline_s < math.inf:
        raise FrameError(f"a deadline of {deadline_s} s is not a time")


def check_size(name: str, datatype: str, shape: tuple[int, ...], size: int) -> None:
    """Refuse a tensor whose data cannot be those of its shape."""
    extent = ELEMENT_BYTES[datatype]
    for dimension in shape:
        if dimension < 0:
            raise FrameError(f"tensor {name!r}: the shape {shape} has a negative dimension")
        # A zero must not hide the others: (0, 2**63) is empty, yet no array library can hold its strides.
        extent *= dimension or 1
    if extent > _LARGEST:
        raise FrameError(f"tensor {name!r}: the shape {shape} overflows")
    expected = 0 if 0 in shape else extent
    if datatype != _BYTES and size != expected:
        raise FrameError(f"tensor {name!r}: {datatype} {shape} takes {expected} bytes, not {size}")
