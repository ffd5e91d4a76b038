"""Requests with something wrong, by the hundred: each is answered or refused, and nothing of the server dies of any.

Every round has a generator of its own, so that one that fails can be run alone.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPResponse
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
from google.protobuf import json_format

from ranksmith.serve.frames import Frame, Kind, Tensor, encode
from ranksmith.serve.messages import Ask, dumps
from tests.integration.serve.asking import INFER, LENGTH, connected, request
from tests.integration.serve.damage import damaged, damaged_json, damaged_text
from tests.integration.serve.samples import (
    ROW,
    STREAM,
    frames,
    grpc_requests,
    head_of_binary,
    http_requests,
    with_head,
)
from tests.integration.serve.server import Server

# Of each kind; an hour's worth is 140,000.
ROUNDS = int(os.environ.get("RANKSMITH_TEST_FUZZ", "200"))
SERVICE = "/inference.GRPCInferenceService/"
# What is refused because of a deadline is refused as it should be.
LATE = (503, 504)

Code = grpc.StatusCode


def rounds(what: str) -> Iterator[tuple[str, random.Random]]:
    """Of so many rounds the name, and the random numbers."""
    for number in range(ROUNDS):
        name = f"{what} {number}"
        yield name, random.Random(name)


def is_answered(response: httpx.Response) -> bool:
    """Whether it is an answer, or a refusal in JSON and not because of a bug."""
    if response.status_code == 200:
        return True
    return (response.status_code < 500 or response.status_code in LATE) and set(response.json()) == {"error"}


class TestHttp:
    def test_bytes_of_bodies_and_headers(self, client: httpx.Client) -> None:
        sources, statuses = http_requests(), Counter[int]()
        for name, rng in rounds("body"):
            path, headers, body = rng.choice(sources)
            # Most of a picture are pixels, where hardly anything can be wrong.
            body = damaged(body, rng, near=rng.choice([20, 60, 400]))
            headers = {key: damaged_text(value, rng) for key, value in headers.items()}
            response = client.post(path, content=body, headers=headers)
            assert is_answered(response), (name, path, headers, body[:200], response.text)
            statuses[response.status_code] += 1
        assert statuses[400] > ROUNDS / 4
        assert statuses[200] > ROUNDS / 40

    def test_values_in_json(self, client: httpx.Client) -> None:
        whole, head, statuses = request(data=[0.5] * 3072), head_of_binary(), Counter[int]()
        for name, rng in rounds("json"):
            if rng.random() < 0.5:
                headers, body = with_head(damaged_json(head, rng))
            else:
                headers, body = {}, json.dumps(damaged_json(whole, rng)).encode()
            response = client.post(INFER, content=body, headers=headers)
            assert is_answered(response), (name, body[:300], response.text)
            statuses[response.status_code] += 1
        assert statuses[400] > ROUNDS / 4
        assert statuses[200] > ROUNDS / 40

    def test_bytes_on_the_connection(self, server: Server) -> None:
        sources = [on_the_wire(*each) for each in http_requests()]
        good = on_the_wire(INFER, {LENGTH: "0"}, ROW)
        for name, rng in rounds("connection"):
            content = damaged(rng.choice(sources), rng)
            pieces = cut(content + rng.choice([b"", good]), rng)
            with connected(server) as link:
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if rng.random() < 0.3:
                    assert answered(link, good) == 200, name
                statuses = [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3}) ", told(link, pieces))]
            assert all(status < 500 or status in LATE for status in statuses), (name, statuses, content[:300])


def on_the_wire(path: str, headers: dict[str, str], body: bytes) -> bytes:
    given = {"Host": "x", "Content-Length": str(len(body))} | headers
    lines = "".join(f"{key}: {value}\r\n" for key, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def cut(content: bytes, rng: random.Random) -> list[bytes]:
    """In up to four pieces."""
    places = sorted(rng.randrange(len(content) + 1) for _ in range(rng.randrange(4)))
    return [content[start:end] for start, end in pairwise([0, *places, len(content)])]


def answered(link: socket.socket, content: bytes) -> int:
    """The status of the answer, which is read to its end."""
    link.sendall(content)
    response = HTTPResponse(link)
    response.begin()
    response.read()
    return response.status


def told(link: socket.socket, pieces: list[bytes]) -> bytes:
    """Everything that comes back, to the end of the connection."""
    found = b""
    # A server that has refused what it read closes before the rest was sent.
    try:
        for piece in pieces:
            link.sendall(piece)
        link.shutdown(socket.SHUT_WR)
        while part := link.recv(2**16):
            found += part
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
            raise
    return found


def damaged_message(message: Any, rng: random.Random) -> bytes:
    """Its bytes damaged, or else one of its fields, as far as the message can hold it."""
    if rng.random() < 0.5:
        content = damaged_json(json_format.MessageToDict(message, preserving_proto_field_name=True), rng)
        # It does not fit the message, which protobuf says in many ways, SystemError among them.
        with contextlib.suppress(Exception):
            return bytes(json_format.ParseDict(content, type(message)()).SerializeToString())
    return damaged(message.SerializeToString(), rng)


def test_grpc_messages(server: Server) -> None:
    sources, codes = grpc_requests(), Counter[grpc.StatusCode]()
    with grpc.insecure_channel(str(server.wait_for("serving")["grpc"])) as channel:
        for name, rng in rounds("grpc"):
            method, message = rng.choice(sources)
            content = damaged_message(message, rng)
            code, details = answer(channel, method, content)
            assert code not in (Code.UNKNOWN, Code.INTERNAL), (name, details, base64.b64encode(content))
            codes[code] += 1
    assert codes[Code.INVALID_ARGUMENT] > ROUNDS / 10
    assert codes[Code.OK] > ROUNDS / 40


def answer(channel: grpc.Channel, method: str, content: bytes) -> tuple[grpc.StatusCode, str]:
    try:
        if method == STREAM:
            list(channel.stream_stream(SERVICE + method)(iter([content])))
        else:
            channel.unary_unary(SERVICE + method)(content)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return Code.OK, ""


def damaged_frame(frame: Frame, rng: random.Random) -> Frame:
    """A frame that can still be read, with what no front end would say in it."""
    tensors = frame.tensors
    if tensors and rng.random() < 0.7:
        name, datatype = rng.choice(["image", "", "x" * 200]), rng.choice(["FP32", "UINT8", "BYTES", "FP16", "BOOL"])
        shape = tuple(rng.randrange(4) for _ in range(rng.randrange(6)))
        size = int(np.prod(shape, dtype=int)) * {"FP32": 4, "FP16": 2}.get(datatype, 1)
        tensors = rng.choice([(), tensors * 2, (Tensor(name, datatype, shape, bytes(size)),)])
    asks = (
        frame.meta,
        b"null",
        b"[]",
        dumps(Ask(outputs=["nope"])),
        dumps(Ask(top_k=-1, alone=True)),
        rng.randbytes(9),
    )
    kind = rng.choice([frame.kind, frame.kind, rng.choice(list(Kind))])
    return Frame(
        kind, rng.choice([0, 1, 2**64 - 1]), rng.choice([0, 1, 7]), frame.deadline_s, rng.choice(asks), tensors
    )


def test_frames_of_a_rogue_front_end(server: Server) -> None:
    (worker,) = server.children("worker")
    path, sources = socket_of(worker), frames()
    for _, rng in rounds("frame"):
        chosen = [rng.choice(sources) for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.5:
            content = b"".join(wire(damaged_frame(frame, rng)) for frame in chosen)
        else:
            content = damaged(b"".join(map(wire, chosen)), rng, near=30)
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(20)
            link.connect(path)
            told(link, [content])


def wire(frame: Frame) -> bytes:
    return b"".join(map(bytes, encode(frame)))


def socket_of(pid: int) -> str:
    """Path of the socket that a process listens on."""
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    own = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        *_, inode, path = line.split() if len(line.split()) > 7 else ("", "")
        if inode in own and Path(path).name.startswith("worker-"):
            return path
    raise AssertionError(f"process {pid} listens nowhere")
