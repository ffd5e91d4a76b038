"""The frames that front ends, workers and the supervisor exchange, as pure bytes in and out.

Nothing here does input or output: `encode` gives the buffers to write, a `Decoder` takes bytes as they come. On the
wire, in network byte order:

    header       magic "RSFR", version, kind, number of tensors, request, generation, deadline,
                 bytes of meta, bytes of descriptors, bytes of payload
    descriptors  for each tensor: datatype, ndim, bytes of name, bytes of data; dimensions; name in UTF-8
    meta         opaque to this module
    payload      each tensor's data, padded to a multiple of 8 bytes so that every element is aligned

The decoder refuses what is malformed or over its limits before it allocates anything of the size asked for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["DEFAULT_LIMITS", "ELEMENT_BYTES", "Decoder", "Frame", "FrameError", "Kind", "Limits", "Tensor", "encode"]

_MAGIC = b"RSFR"
_VERSION = 1
_HEADER = struct.Struct("!4sBBHQIdIIQ")
_DESCRIPTOR = struct.Struct("!BBHQ")
_DIMENSION_BYTES = 8
_ALIGNMENT = 8
_LARGEST = 2**63 - 1
_SCRATCH_BYTES = 64 * 1024

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
_DATATYPES = tuple(ELEMENT_BYTES)
_CODES = {datatype: code for code, datatype in enumerate(_DATATYPES)}


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


@dataclass(frozen=True, slots=True)
class Tensor:
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


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Attributes:
        kind: what it is for.
        request: which request it belongs to, 64 bits.
        generation: which model generation it belongs to, 32 bits.
        deadline_s: seconds on CLOCK_MONOTONIC, 0 for none.
        meta: anything else, in an encoding that sender and receiver agree on.
        tensors: inputs or outputs.
    """

    kind: Kind
    request: int = 0
    generation: int = 0
    deadline_s: float = 0.0
    meta: bytes = b""
    tensors: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What a decoder accepts in one frame."""

    meta_bytes: int = 2**20
    tensors: int = 64
    dimensions: int = 8
    name_bytes: int = 256
    payload_bytes: int = 2**30

    @property
    def descriptor_bytes(self) -> int:
        """The largest that one tensor's descriptor can be."""
        return _DESCRIPTOR.size + self.dimensions * _DIMENSION_BYTES + self.name_bytes


DEFAULT_LIMITS = Limits()


def encode(frame: Frame) -> list[bytes | memoryview]:
    """The buffers to write, in order.

    Payloads are not copied: the caller leaves them unchanged until they are written.

    Raises:
        FrameError: the format cannot hold the frame, or a tensor's data does not match its shape.
    """
    _check_deadline(frame.deadline_s)
    descriptors: list[bytes] = []
    payload: list[bytes | memoryview] = []
    payload_bytes = 0
    for tensor in frame.tensors:
        data = _flat(tensor)
        descriptors.append(_describe(tensor, data.nbytes))
        if data.nbytes:
            payload.append(data)
        if padding := _padded(data.nbytes) - data.nbytes:
            payload.append(bytes(padding))
        payload_bytes += _padded(data.nbytes)
    block = b"".join(descriptors)
    try:
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            Kind(frame.kind),
            len(frame.tensors),
            frame.request,
            frame.generation,
            frame.deadline_s,
            len(frame.meta),
            len(block),
            payload_bytes,
        )
    except (struct.error, ValueError) as error:
        raise FrameError(f"a frame cannot hold this header: {error}") from error
    return [header + block + frame.meta, *payload]


class Decoder:
    """Turns bytes, cut anywhere, into frames.

    Give it bytes with `feed`; or read straight into `buffer()` and say how much came with `filled`, which spares large
    payloads a copy. The data of the tensors it gives are views of memory that it does not use again.

    Frames that came before malformed bytes are still given; every later call raises, and `error` says why.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.error: FrameError | None = None
        self._limits = limits
        self._header_buffer = memoryview(bytearray(_HEADER.size))
        self._scratch: memoryview | None = None
        self._reading_into_payload = False
        self._expect_header()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes.

        Raises:
            FrameError: the bytes are not a frame, and no frame was completed before them; or an earlier call broke.
        """
        self._raise_if_broken()
        frames: list[Frame] = []
        rest = memoryview(data)
        while rest and self.error is None:
            taken = min(len(rest), len(self._target) - self._taken)
            self._target[self._taken : self._taken + taken] = rest[:taken]
            rest = rest[taken:]
            self._take(taken, frames)
        return self._given(frames)

    def buffer(self) -> memoryview:
        """Where to put the bytes that come next; never empty. Good until `filled` or `feed` is called."""
        self._raise_if_broken()
        # Reading a small part of a frame by itself would cost a system call to save a short copy.
        missing = len(self._target) - self._taken
        self._reading_into_payload = self._tensors is not None and missing >= _SCRATCH_BYTES
        if self._reading_into_payload:
            return self._target[self._taken :]
        if self._scratch is None:
            self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        return self._scratch

    def filled(self, size: int) -> list[Frame]:
        """The frames that the first `size` bytes of what `buffer` gave complete. Raises as `feed` does."""
        if not self._reading_into_payload:
            assert self._scratch is not None, "buffer() comes before filled()"
            return self.feed(self._scratch[:size])
        self._raise_if_broken()
        frames: list[Frame] = []
        self._take(size, frames)
        return self._given(frames)

    def end(self) -> None:
        """Say that no more bytes come.

        Raises:
            FrameError: a frame was cut off, or an earlier call broke.
        """
        self._raise_if_broken()
        if self._header is not None or self._taken:
            self.error = FrameError("the stream ended in the middle of a frame")
            self._raise_if_broken()

    def _raise_if_broken(self) -> None:
        if self.error is not None:
            raise FrameError(*self.error.args)

    def _given(self, frames: list[Frame]) -> list[Frame]:
        if not frames:
            self._raise_if_broken()
        return frames

    def _expect(self, target: memoryview) -> None:
        self._target = target
        self._taken = 0
        self._reading_into_payload = False

    def _expect_header(self) -> None:
        self._header: _Header | None = None
        self._tensors: list[_Described] | None = None
        self._meta = b""
        self._expect(self._header_buffer)

    def _take(self, size: int, frames: list[Frame]) -> None:
        """Count `size` more bytes of the target as read, and go on to the next part once it is full."""
        self._taken += size
        try:
            while self._taken == len(self._target):
                if (frame := self._next_part()) is not None:
                    frames.append(frame)
        except FrameError as error:
            self.error = error.with_traceback(None)

    def _next_part(self) -> Frame | None:
        if self._header is None:
            self._header = _read_header(self._target, self._limits)
            self._expect(memoryview(bytearray(self._header.descriptor_bytes + self._header.meta_bytes)))
            return None
        if self._tensors is None:
            self._tensors = _read_descriptors(self._target, self._header, self._limits)
            self._meta = bytes(self._target[self._header.descriptor_bytes :])
            self._expect(memoryview(bytearray(self._header.payload_bytes)))
            return None
        frame = _assemble(self._header, self._tensors, self._meta, self._target)
        self._expect_header()
        return frame


class _Header(NamedTuple):
    kind: Kind
    tensors: int
    request: int
    generation: int
    deadline_s: float
    meta_bytes: int
    descriptor_bytes: int
    payload_bytes: int


class _Described(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int


def _read_header(block: memoryview, limits: Limits) -> _Header:
    magic, version, kind, *rest = _HEADER.unpack(block)
    if magic != _MAGIC:
        raise FrameError(f"not a frame: it begins with {magic!r}")
    if version != _VERSION:
        raise FrameError(f"frame version {version} is unknown; this side speaks {_VERSION}")
    try:
        header = _Header(Kind(kind), *rest)
    except ValueError as error:
        raise FrameError(f"frame kind {kind} is unknown") from error
    _check_deadline(header.deadline_s)
    _check_limit("tensors", header.tensors, limits.tensors)
    _check_limit("bytes of meta", header.meta_bytes, limits.meta_bytes)
    _check_limit("bytes of descriptors", header.descriptor_bytes, header.tensors * limits.descriptor_bytes)
    _check_limit("bytes of payload", header.payload_bytes, limits.payload_bytes)
    return header


def _read_descriptors(block: memoryview, header: _Header, limits: Limits) -> list[_Described]:
    descriptors = block[: header.descriptor_bytes]
    tensors: list[_Described] = []
    offset = 0
    for _ in range(header.tensors):
        tensor, offset = _read_descriptor(descriptors, offset, limits)
        tensors.append(tensor)
    if offset != len(descriptors):
        raise FrameError(f"{len(descriptors) - offset} bytes of descriptors are left over")
    described = sum(_padded(tensor.size) for tensor in tensors)
    if described != header.payload_bytes:
        raise FrameError(f"the tensors add up to {described} bytes, the payload has {header.payload_bytes}")
    return tensors


def _read_descriptor(block: memoryview, start: int, limits: Limits) -> tuple[_Described, int]:
    try:
        code, ndim, name_bytes, size = _DESCRIPTOR.unpack_from(block, start)
        _check_limit("dimensions", ndim, limits.dimensions)
        _check_limit("bytes of name", name_bytes, limits.name_bytes)
        shape: tuple[int, ...] = struct.unpack_from(f"!{ndim}Q", block, start + _DESCRIPTOR.size)
    except struct.error as error:
        raise FrameError("the descriptors are cut off") from error
    if code >= len(_DATATYPES):
        raise FrameError(f"datatype code {code} is unknown")
    name_start = start + _DESCRIPTOR.size + ndim * _DIMENSION_BYTES
    end = name_start + name_bytes
    if end > len(block):
        raise FrameError("the descriptors are cut off")
    try:
        name = str(block[name_start:end], "utf-8")
    except UnicodeDecodeError as error:
        raise FrameError(f"a tensor's name is not UTF-8: {error.reason}") from error
    _check_size(name, _DATATYPES[code], shape, size)
    return _Described(name, _DATATYPES[code], shape, size), end


def _assemble(header: _Header, described: list[_Described], meta: bytes, payload: memoryview) -> Frame:
    tensors: list[Tensor] = []
    offset = 0
    for name, datatype, shape, size in described:
        tensors.append(Tensor(name, datatype, shape, payload[offset : offset + size]))
        offset += _padded(size)
    return Frame(header.kind, header.request, header.generation, header.deadline_s, meta, tuple(tensors))


def _describe(tensor: Tensor, size: int) -> bytes:
    if tensor.datatype not in _CODES:
        raise FrameError(f"tensor {tensor.name!r}: datatype {tensor.datatype!r} is unknown")
    _check_size(tensor.name, tensor.datatype, tensor.shape, size)
    try:
        name = tensor.name.encode()
        fixed = _DESCRIPTOR.pack(_CODES[tensor.datatype], len(tensor.shape), len(name), size)
        return fixed + struct.pack(f"!{len(tensor.shape)}Q", *tensor.shape) + name
    except (struct.error, UnicodeEncodeError) as error:
        raise FrameError(f"tensor {tensor.name!r}: a frame cannot describe it: {error}") from error


def _flat(tensor: Tensor) -> memoryview:
    """A tensor's data as a row of bytes, without copying it."""
    view = memoryview(tensor.data)
    if view.nbytes == 0:
        return memoryview(b"")  # a view with a zero in its shape cannot be cast
    try:
        return view.cast("B")
    except (TypeError, ValueError) as error:
        raise FrameError(f"tensor {tensor.name!r}: its data is not a C-contiguous buffer: {error}") from error


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _check_limit(what: str, value: int, limit: int) -> None:
    if value > limit:
        raise FrameError(f"{value} {what} are more than the {limit} allowed")


def _check_deadline(deadline_s: float) -> None:
    if not math.isfinite(deadline_s) or deadline_s < 0:
        raise FrameError(f"a deadline of {deadline_s} s is not a time")


def _check_size(name: str, datatype: str, shape: tuple[int, ...], size: int) -> None:
    if any(dimension < 0 for dimension in shape):
        raise FrameError(f"tensor {name!r}: the shape {shape} has a negative dimension")
    # A zero must not hide the others: (0, 2**63) is empty, yet no array library can hold its strides.
    extent = math.prod(max(dimension, 1) for dimension in shape) * ELEMENT_BYTES[datatype]
    if extent > _LARGEST:
        raise FrameError(f"tensor {name!r}: the shape {shape} overflows")
    expected = 0 if 0 in shape else extent
    if datatype != _BYTES and size != expected:
        raise FrameError(f"tensor {name!r}: {datatype} {shape} takes {expected} bytes, not {size}")
