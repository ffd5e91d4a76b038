"""How tests ask a server for what clients would not."""

from __future__ import annotations

import io
import re
import socket
from http.client import HTTPResponse
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image

from tests.integration.serve.server import Server

__all__ = ["INFER", "LENGTH", "connected", "encoded", "exchange", "refused", "request"]

INFER = "/v2/models/demo/infer"
LENGTH = "Inference-Header-Content-Length"


def encoded(kind: str, *, height: int = 32, width: int = 32) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def request(**changes: object) -> dict[str, object]:
    entry: dict[str, object] = {"name": "image", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}
    return {"inputs": [{key: value for key, value in (entry | changes).items() if value is not None}]}


def refused(response: httpx.Response, status: int, pattern: str) -> None:
    """The answer is one line that says what is wrong, and shows nothing of ours."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert set(content) == {"error"}
    message = content["error"]
    assert re.search(pattern, message), message
    assert len(message) < 300
    assert not re.search(r"\n|Traceback|\.py\b|/work|0x[0-9a-f]{6}", message), message


def connected(server: Server) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), 20)


def exchange(server: Server, content: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; the answer's status, headers and body."""
    with connected(server) as link:
        link.sendall(content)
        response = HTTPResponse(link)
        response.begin()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
