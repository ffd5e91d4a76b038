"""A frame as the buffers to write."""

from __future__ import annotations

import struct

from ranksmith.serve.frames.format import (
    CODES,
    DESCRIPTOR,
    DIMENSIONS,
    HEADER,
    MAGIC,
    VERSION,
    Frame,
    FrameError,
    Kind,
    Tensor,
    check_deadline,
    check_size,
    padding_after,
)

__all__ = ["encode"]


def encode(frame: Frame) -> list[bytes | memoryview]:
    """The buffers to write, in order.

    Payloads are not copied: the caller leaves them unchanged until they are written.

    Raises:
        FrameError: the format cannot hold the frame, or a tensor's data does not match its shape.
    """
    check_deadline(frame.deadline_s)
    descriptors: list[bytes] = []
    payload: list[bytes | memoryview] = []
    payload_bytes = 0
    for tensor in frame.tensors:
        data = _flat(tensor)
        size = data.nbytes
        descriptors.append(_describe(tensor, size))
        if size:
            payload.append(data)
        padding = padding_after(size)
        if padding:
            payload.append(bytes(padding))
        payload_bytes += size + padding
    block = b"".join(descriptors)
    try:
        header = HEADER.pack(
            MAGIC,
            VERSION,
            Kind(frame.kind),
            len(frame.tensors),
            frame.request,
            len(frame.others),
            frame.generation,
            frame.deadline_s,
            len(frame.meta),
            len(block),
            payload_bytes,
        )
        others = struct.pack(f"!{len(frame.others)}Q", *frame.others)
    except (struct.error, ValueError) as error:
        raise FrameError(f"a frame cannot hold this header: {error}") from error
    return [header + others + block + frame.meta, *payload]


def _describe(tensor: Tensor, size: int) -> bytes:
    code = CODES.get(tensor.datatype)
    if code is None:
        raise FrameError(f"tensor {tensor.name!r}: datatype {tensor.datatype!r} is unknown")
    shape = tensor.shape
    check_size(tensor.name, tensor.datatype, shape, size)
    try:
        name = tensor.name.encode()
        fixed = DESCRIPTOR.pack(code, len(shape), len(name), size)
        return fixed + DIMENSIONS[len(shape)].pack(*shape) + name
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
