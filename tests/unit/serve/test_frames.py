from __future__ import annotations

import struct
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.serve.frames import (
    ELEMENT_BYTES,
    Decoder,
    Frame,
    FrameError,
    Kind,
    Limits,
    Tensor,
    encode,
    stack,
    unstack,
)

HEADER = struct.Struct("!4sBBHQHIdIIQ")
DESCRIPTOR = struct.Struct("!BBHQ")
FP32 = list(ELEMENT_BYTES).index("FP32")
FAR = 2**40


def header(
    *,
    magic: bytes = b"RSFR",
    version: int = 2,
    kind: int = 2,
    tensors: int = 0,
    others: int = 0,
    deadline_s: float = 0.0,
    meta: int = 0,
    descriptors: int = 0,
    payload: int = 0,
) -> bytes:
    return HEADER.pack(magic, version, kind, tensors, 7, others, 1, deadline_s, meta, descriptors, payload)


def descriptor(
    *, code: int = FP32, shape: tuple[int, ...] = (2,), name: bytes = b"x", size: int = 8, ndim: int | None = None
) -> bytes:
    fixed = DESCRIPTOR.pack(code, len(shape) if ndim is None else ndim, len(name), size)
    return fixed + struct.pack(f"!{len(shape)}Q", *shape) + name


def described(*descriptors: bytes, payload: int) -> bytes:
    block = b"".join(descriptors)
    return header(tensors=len(descriptors), descriptors=len(block), payload=payload) + block


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(sorted(ELEMENT_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    if datatype == "BYTES":
        data = draw(st.binary(max_size=40))
    else:
        size = int(np.prod(shape, dtype=int)) * ELEMENT_BYTES[datatype]
        data = draw(st.binary(min_size=size, max_size=size))
    return Tensor(
        draw(st.text(max_size=8)), datatype, shape, draw(st.sampled_from([bytes, bytearray, memoryview]))(data)
    )


FRAMES = st.builds(
    Frame,
    kind=st.sampled_from(Kind),
    request=st.integers(0, 2**64 - 1),
    generation=st.integers(0, 2**32 - 1),
    deadline_s=st.floats(0, allow_nan=False, allow_infinity=False),
    meta=st.binary(max_size=40),
    tensors=st.lists(tensors(), max_size=3).map(tuple),
    others=st.lists(st.integers(0, 2**64 - 1), max_size=3).map(tuple),
)


def wire(*frames: Frame) -> bytes:
    return b"".join(bytes(buffer) for frame in frames for buffer in encode(frame))


def read_through_buffer(decoder: Decoder, data: bytes, step: int) -> list[Frame]:
    frames: list[Frame] = []
    while data:
        target = decoder.buffer()
        taken = min(step, len(target), len(data))
        target[:taken] = data[:taken]
        data = data[taken:]
        frames += decoder.filled(taken)
    return frames


@given(st.lists(FRAMES, min_size=1, max_size=4), st.data())
@settings(deadline=None)
def test_frames_survive_the_wire_wherever_it_is_cut(frames: list[Frame], data: st.DataObject) -> None:
    stream = wire(*frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder = Decoder()
    received = [frame for a, b in pairwise([0, *cuts, len(stream)]) for frame in decoder.feed(stream[a:b])]
    decoder.end()
    assert received == frames


@given(st.lists(FRAMES, min_size=1, max_size=3))
@settings(deadline=None)
def test_frames_survive_one_byte_at_a_time(frames: list[Frame]) -> None:
    stream = wire(*frames)
    decoder = Decoder()
    assert [frame for i in range(len(stream)) for frame in decoder.feed(stream[i : i + 1])] == frames
    decoder.end()


@given(st.lists(FRAMES, min_size=1, max_size=3), st.integers(1, 300))
@settings(deadline=None)
def test_frames_survive_being_read_into_the_decoders_own_buffer(frames: list[Frame], step: int) -> None:
    decoder = Decoder()
    assert read_through_buffer(decoder, wire(*frames), step) == frames
    decoder.end()


@pytest.mark.parametrize("step", [1000, 64 * 1024, 10**6])
def test_large_payloads_between_small_frames_survive_the_decoders_own_buffer(step: int) -> None:
    large = Tensor("x", "UINT8", (300_001,), np.random.default_rng(0).bytes(300_001))
    frames = [Frame(Kind.HELLO), Frame(Kind.INFER, tensors=(large, large)), Frame(Kind.CANCEL, request=3)]
    assert read_through_buffer(Decoder(), wire(*frames), step) == frames


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_only_ever_raise_frame_error(data: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(data)
        decoder.end()
    except FrameError:
        return
    assert data == b""


@given(FRAMES, st.data())
@settings(max_examples=300, deadline=None)
def test_a_mutated_frame_is_another_frame_or_a_frame_error(frame: Frame, data: st.DataObject) -> None:
    stream = bytearray(wire(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    small = Limits(payload_bytes=2**16, meta_bytes=2**12)
    try:
        decoder = Decoder(small)
        received = decoder.feed(stream)
        decoder.end()
    except FrameError:
        return
    assert [Decoder().feed(wire(each)) for each in received] == [[each] for each in received]


@given(FRAMES, st.data())
@settings(deadline=None)
def test_a_frame_that_is_cut_off_is_reported_at_the_end(frame: Frame, data: st.DataObject) -> None:
    stream = wire(frame)
    decoder = Decoder()
    assert decoder.feed(stream[: data.draw(st.integers(1, len(stream) - 1))]) == []
    with pytest.raises(FrameError, match="middle of a frame"):
        decoder.end()
    with pytest.raises(FrameError, match="middle of a frame"):
        decoder.feed(b"")


HOSTILE = {
    "magic": header(magic=b"HTTP"),
    "version": header(version=9),
    "kind zero": header(kind=0),
    "kind": header(kind=8),
    "deadline nan": header(deadline_s=float("nan")),
    "deadline infinite": header(deadline_s=float("inf")),
    "deadline negative": header(deadline_s=-1.0),
    "meta": header(meta=2**32 - 1),
    "meta just over": header(meta=2**20 + 1),
    "payload": header(tensors=1, descriptors=20, payload=2**64 - 1),
    "payload just over": header(tensors=1, descriptors=20, payload=2**30 + 1),
    "tensors": header(tensors=65, descriptors=65 * 20),
    "descriptors": header(tensors=1, descriptors=2**32 - 1),
    "descriptors of no tensor": header(descriptors=1),
    "payload of no tensor": header(payload=2**30),
    "sum below payload": described(descriptor(), payload=2**30),
    "sum above payload": described(descriptor(shape=(2**28,), size=2**30), payload=2**30 - 8),
    "data larger than all memory": described(descriptor(code=13, size=2**64 - 8), payload=2**30),
    "size against shape": described(descriptor(shape=(2**28 - 1,), size=2**30), payload=2**30),
    "datatype": described(descriptor(code=200), payload=8),
    "name not UTF-8": described(descriptor(name=b"\xff\xfe"), payload=8),
    "name too long": described(descriptor(name=b"x" * 257), descriptor(), payload=16),
    "too many dimensions": described(descriptor(shape=(1,) * 9, size=4), descriptor(name=b""), payload=16),
    "overflowing product": described(descriptor(shape=(2**32, 2**32), size=0), payload=0),
    "overflow behind a zero": described(descriptor(shape=(0, 2**63), size=0), payload=0),
    "overflow of bytes": described(descriptor(code=13, shape=(2**63,), size=0), payload=0),
    "descriptor cut off": described(descriptor()[:9], payload=8),
    "dimensions cut off": described(descriptor(ndim=8), payload=8),
    "name cut off": described(descriptor()[:-1], payload=8),
    "descriptors left over": described(descriptor() + b"\0", payload=8),
}


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_frames_are_refused_before_anything_is_allocated(stream: bytes) -> None:
    decoder = Decoder()
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            decoder.feed(stream)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024


def test_once_broken_a_decoder_stays_broken() -> None:
    decoder = Decoder()
    with pytest.raises(FrameError, match="kind 8"):
        decoder.feed(HOSTILE["kind"])
    for call in (lambda: decoder.feed(wire(Frame(Kind.HELLO))), decoder.buffer, decoder.end):
        with pytest.raises(FrameError, match="kind 8"):
            call()


def test_frames_before_garbage_are_given_however_they_arrive() -> None:
    good = Frame(Kind.RESULT, request=5)
    decoder = Decoder()
    assert decoder.feed(wire(good) + HOSTILE["magic"] + wire(good)) == [good]
    assert decoder.error is not None
    with pytest.raises(FrameError, match="HTTP"):
        decoder.feed(b"")


def test_limits_are_the_callers_to_choose() -> None:
    frame = Frame(Kind.INFER, meta=b"12345", tensors=(Tensor("abc", "UINT8", (1, 9), b"123456789"),))
    assert Decoder(Limits(5, 1, 2, 3, 16)).feed(wire(frame)) == [frame]
    for tight in (Limits(4), Limits(tensors=0), Limits(dimensions=1), Limits(name_bytes=2), Limits(payload_bytes=15)):
        with pytest.raises(FrameError):
            Decoder(tight).feed(wire(frame))


def test_encoding_copies_no_payload_and_decoding_copies_it_once() -> None:
    size = 32 * 2**20
    data = bytearray(size)
    frame = Frame(Kind.INFER, tensors=(Tensor("x", "UINT8", (size,), data),))
    tracemalloc.start()
    try:
        buffers = encode(frame)
        _, encoding = tracemalloc.get_traced_memory()
        decoder = Decoder()
        (received,) = [frame for buffer in buffers for frame in decoder.feed(buffer)]
        _, decoding = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert encoding < 2**20
    assert decoding < size + 2**20
    data[0] = 9
    assert buffers[1][0] == 9
    assert received.tensors[0].data[0] == 0


def test_arrays_of_any_shape_are_taken_as_they_are_and_arrive_aligned() -> None:
    arrays = {
        "odd": np.arange(3, dtype=np.uint8),
        "FP64": np.arange(6.0).reshape(2, 3),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    datatypes = ["UINT8", "FP64", "FP32", "FP32"]
    sent = tuple(
        Tensor(name, datatype, array.shape, array.data)
        for (name, array), datatype in zip(arrays.items(), datatypes, strict=True)
    )
    (received,) = Decoder().feed(wire(Frame(Kind.RESULT, tensors=sent)))
    for tensor, array in zip(received.tensors, arrays.values(), strict=True):
        arrived = np.frombuffer(tensor.data, array.dtype).reshape(tensor.shape)
        assert arrived.flags.aligned
        np.testing.assert_array_equal(arrived, array)


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Kind.INFER, request=2**64),
        Frame(Kind.INFER, request=-1),
        Frame(Kind.INFER, generation=2**32),
        Frame(Kind.INFER, deadline_s=-0.5),
        Frame(Kind.INFER, deadline_s=float("nan")),
        Frame(99),  # type: ignore[arg-type]
        Frame(Kind.INFER, tensors=(Tensor("x", "FP31", (1,), b"1234"),)),
        Frame(Kind.INFER, tensors=(Tensor("x", "FP32", (2,), b"1234"),)),
        Frame(Kind.INFER, tensors=(Tensor("x", "FP32", (-1, -1), b"1234"),)),
        Frame(Kind.INFER, tensors=(Tensor("x", "FP32", (0, FAR, FAR), b""),)),
        Frame(Kind.INFER, tensors=(Tensor("x", "UINT8", (1,) * 256, b"1"),)),
        Frame(Kind.INFER, tensors=(Tensor("\ud800", "UINT8", (1,), b"1"),)),
        Frame(Kind.INFER, tensors=(Tensor("x" * 65536, "UINT8", (1,), b"1"),)),
        Frame(Kind.INFER, tensors=(Tensor("x", "UINT8", (2,), memoryview(b"1234")[::2]),)),
        Frame(Kind.INFER, tensors=(Tensor("x", "UINT8", (1,), b"1"),) * 65536),
    ],
)
def test_what_the_format_cannot_hold_is_refused_when_encoding(frame: Frame) -> None:
    with pytest.raises(FrameError):
        encode(frame)


@given(st.integers(1, 6), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.data())
def test_what_is_stacked_comes_apart_as_it_was(count: int, shape: list[int], data: st.DataObject) -> None:
    size = 4 * int(np.prod(shape))
    contents = [data.draw(st.binary(min_size=size, max_size=size)) for _ in range(count)]
    requests = [(Tensor("x", "FP32", tuple(shape), content),) for content in contents]
    (whole,) = stack(requests)
    assert (whole.shape, bytes(whole.data)) == ((count * shape[0], *shape[1:]), b"".join(contents))
    assert unstack((whole,), count) == requests


def test_what_cannot_be_that_of_several_requests_is_refused() -> None:
    for tensor in (
        Tensor("x", "FP32", (3,), bytes(12)),
        Tensor("x", "FP32", (), bytes(4)),
        Tensor("x", "BYTES", (2,), b""),
    ):
        with pytest.raises(FrameError, match="'x'"):
            unstack((tensor,), 2)
