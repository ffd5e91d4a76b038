"""Bytes, cut anywhere, as frames.

What is malformed or over the limits is refused before anything of the size asked for is allocated. Most frames are
small and come whole; they are read where they lie, and only their payload is copied.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ranksmith.serve.frames.format import (
    DATATYPES,
    DEFAULT_LIMITS,
    DESCRIPTOR,
    DIMENSIONS,
    HEADER,
    KINDS,
    MAGIC,
    REQUEST_BYTES,
    VERSION,
    Frame,
    FrameError,
    Kind,
    Limits,
    Tensor,
    check_deadline,
    check_size,
    padding_after,
)

__all__ = ["Decoder"]

_SCRATCH_BYTES = 64 * 1024
_NOTHING = memoryview(b"")


class Decoder:
    """Turns bytes, cut anywhere, into frames.

    Give it bytes with `feed`; or read straight into `buffer()` and say how much came with `filled`, which spares large
    payloads a copy. The data of the tensors it gives are views of memory that it does not use again.

    Frames that came before malformed bytes are still given; every later call raises, and `error` says why.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.error: FrameError | None = None
        self._limits = limits
        self._scratch: memoryview | None = None
        self._reading_into_payload = False
        self._header: _Header | None = None
        self._others: tuple[int, ...] = ()
        self._tensors: list[_Described] | None = None
        self._meta = b""
        self._target: memoryview | None = None
        self._expect(HEADER.size)

    @property
    def is_within_payload(self) -> bool:
        """Whether a part of a frame's payload is still to come."""
        return self._tensors is not None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes.

        Raises:
            FrameError: the bytes are not a frame, and no frame was completed before them; or an earlier call broke.
        """
        self._raise_if_broken()
        return self._frames_in(memoryview(data))

    def buffer(self) -> memoryview:
        """Where to put the bytes that come next; never empty. Good until `filled` or `feed` is called."""
        self._raise_if_broken()
        # Reading a small part of a frame by itself would cost a system call to save a short copy.
        self._reading_into_payload = self._tensors is not None and self._size - self._taken >= _SCRATCH_BYTES
        if self._reading_into_payload:
            return self._collected()[self._taken :]
        if self._scratch is None:
            self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        return self._scratch

    def filled(self, size: int) -> list[Frame]:
        """The frames that the first `size` bytes of what `buffer` gave complete. Raises as `feed` does."""
        self._raise_if_broken()
        if self._reading_into_payload:
            self._reading_into_payload = False
            self._taken += size
            return self._frames_in(_NOTHING)
        assert self._scratch is not None, "buffer() comes before filled()"
        return self._frames_in(self._scratch[:size])

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

    def _frames_in(self, rest: memoryview) -> list[Frame]:
        frames: list[Frame] = []
        part: memoryview | None
        try:
            while True:
                part, rest = self._take(rest)
                if part is None:
                    break
                if (frame := self._next_part(part)) is not None:
                    frames.append(frame)
        except FrameError as error:
            self.error = error.with_traceback(None)
        if not frames:
            self._raise_if_broken()
        return frames

    def _take(self, rest: memoryview) -> tuple[memoryview | None, memoryview]:
        """The part that is expected, if it is there whole, and what of `rest` comes after it."""
        if self._taken == 0 and len(rest) >= self._size:
            return rest[: self._size], rest[self._size :]
        size = min(len(rest), self._size - self._taken)
        if size:
            self._collected()[self._taken : self._taken + size] = rest[:size]
            self._taken += size
        return self._target if self._taken == self._size else None, rest[size:]

    def _collected(self) -> memoryview:
        """Memory for a part that comes in pieces."""
        if self._target is None:
            self._target = memoryview(bytearray(self._size))
        return self._target

    def _next_part(self, part: memoryview) -> Frame | None:
        if self._header is None:
            self._header = _read_header(part, self._limits)
            self._expect(self._header.others_bytes + self._header.descriptor_bytes + self._header.meta_bytes)
            return None
        if self._tensors is None:
            self._others = struct.unpack_from(f"!{self._header.others}Q", part)
            part = part[self._header.others_bytes :]
            self._tensors = _read_descriptors(part, self._header, self._limits)
            self._meta = bytes(part[self._header.descriptor_bytes :])
            self._expect(self._header.payload_bytes)
            return None
        payload = part if part is self._target else memoryview(bytearray(part))
        header = self._header
        tensors = _tensors(self._tensors, payload)
        frame = Frame(
            header.kind, header.request, header.generation, header.deadline_s, self._meta, tensors, self._others
        )
        self._header = self._tensors = None
        self._meta = b""
        self._expect(HEADER.size)
        return frame

    def _expect(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._target = None


class _Header(NamedTuple):
    kind: Kind
    tensors: int
    request: int
    others: int
    generation: int
    deadline_s: float
    meta_bytes: int
    descriptor_bytes: int
    payload_bytes: int

    @property
    def others_bytes(self) -> int:
        return self.others * REQUEST_BYTES


class _Described(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int


def _read_header(block: memoryview, limits: Limits) -> _Header:
    magic, version, kind, *rest = HEADER.unpack(block)
    if magic != MAGIC:
        raise FrameError(f"not a frame: it begins with {magic!r}")
    if version != VERSION:
        raise FrameError(f"frame version {version} is unknown; this side speaks {VERSION}")
    if kind not in KINDS:
        raise FrameError(f"frame kind {kind} is unknown")
    header = _Header(KINDS[kind], *rest)
    check_deadline(header.deadline_s)
    _check_limit("requests", header.others + 1, limits.requests)
    _check_limit("tensors", header.tensors, limits.tensors)
    _check_limit("bytes of meta", header.meta_bytes, limits.meta_bytes)
    _check_limit("bytes of descriptors", header.descriptor_bytes, header.tensors * limits.descriptor_bytes)
    _check_limit("bytes of payload", header.payload_bytes, limits.payload_bytes)
    return header


def _read_descriptors(block: memoryview, header: _Header, limits: Limits) -> list[_Described]:
    descriptors = block[: header.descriptor_bytes]
    tensors: list[_Described] = []
    offset = described = 0
    for _ in range(header.tensors):
        tensor, offset = _read_descriptor(descriptors, offset, limits)
        tensors.append(tensor)
        described += tensor.size + padding_after(tensor.size)
    if offset != len(descriptors):
        raise FrameError(f"{len(descriptors) - offset} bytes of descriptors are left over")
    if described != header.payload_bytes:
        raise FrameError(f"the tensors add up to {described} bytes, the payload has {header.payload_bytes}")
    return tensors


def _read_descriptor(block: memoryview, start: int, limits: Limits) -> tuple[_Described, int]:
    try:
        code, ndim, name_bytes, size = DESCRIPTOR.unpack_from(block, start)
        _check_limit("dimensions", ndim, limits.dimensions)
        _check_limit("bytes of name", name_bytes, limits.name_bytes)
        dimensions = DIMENSIONS[ndim]
        shape: tuple[int, ...] = dimensions.unpack_from(block, start + DESCRIPTOR.size)
    except struct.error as error:
        raise FrameError("the descriptors are cut off") from error
    if code >= len(DATATYPES):
        raise FrameError(f"datatype code {code} is unknown")
    name_start = start + DESCRIPTOR.size + dimensions.size
    end = name_start + name_bytes
    if end > len(block):
        raise FrameError("the descriptors are cut off")
    try:
        name = str(block[name_start:end], "utf-8")
    except UnicodeDecodeError as error:
        raise FrameError(f"a tensor's name is not UTF-8: {error.reason}") from error
    check_size(name, DATATYPES[code], shape, size)
    return _Described(name, DATATYPES[code], shape, size), end


def _tensors(described: list[_Described], payload: memoryview) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    offset = 0
    for name, datatype, shape, size in described:
        tensors.append(Tensor(name, datatype, shape, payload[offset : offset + size]))
        offset += size + padding_after(size)
    return tuple(tensors)


def _check_limit(what: str, value: int, limit: int) -> None:
    if value > limit:
        raise FrameError(f"{value} {what} are more than the {limit} allowed")
