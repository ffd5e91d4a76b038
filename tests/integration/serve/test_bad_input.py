"""Whatever a client sends, it gets one clear line, and the server goes on as if nothing had been."""

from __future__ import annotations

import io
import json
import random
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from http.client import HTTPResponse
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from ranksmith.runtime.session import Session, open_session
from ranksmith.workflow.source import resolve
from tests.integration.serve.server import Server, serving

INFER = "/v2/models/demo/infer"
LENGTH = "Inference-Header-Content-Length"
GB2 = 2 * 10**9


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session(resolve("demo").path, threads=1)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving("demo") as found:
        yield found


@pytest.fixture(scope="module")
def asking(running: Server) -> Iterator[httpx.Client]:
    with running.client() as found:
        yield found


@pytest.fixture
def server(running: Server, session: Session, asking: httpx.Client) -> Iterator[Server]:
    """A server that must be healthy and the same after the test."""
    before = running.children("worker"), running.children("frontend")
    yield running
    assert (running.children("worker"), running.children("frontend")) == before
    image = np.random.default_rng(7).standard_normal((2, 3, 32, 32)).astype(np.float32)
    assert asking.get("/v2/health/ready").status_code == 200
    answer = asking.post(INFER, json=request(shape=[2, 3, 32, 32], data=image.ravel().tolist()))
    logits = np.reshape(answer.json()["outputs"][0]["data"], (2, 10))
    np.testing.assert_allclose(logits, session.run({"image": image})[0], atol=1e-4)
    assert not [line for line in running.lines if "Traceback" in line or "a bug" in line]


@pytest.fixture
def client(server: Server, asking: httpx.Client) -> httpx.Client:
    """Asks a server that must be healthy afterwards."""
    return asking


def encoded(kind: str, *, height: int = 32, width: int = 32) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large; it holds a few pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))

    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


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


class TestImages:
    @pytest.mark.parametrize(
        ("content", "pattern"),
        [
            pytest.param(encoded("JPEG")[:-200], "the image.*cannot be decoded", id="truncated-jpeg"),
            pytest.param(encoded("JPEG")[:20], "the image", id="jpeg-of-20-bytes"),
            pytest.param(encoded("PNG")[:-200], "the image.*cannot be decoded", id="truncated-png"),
            pytest.param(png_of(60_000, 60_000), "60000 by 60000 has more than|more than 50,000,000 pixels", id="bomb"),
            pytest.param(png_of(8_000, 7_000), "7000 by 8000 has more than 50,000,000 pixels", id="small-bomb"),
            pytest.param(png_of(2_000_000, 1), "1 by 2000000 is too long and narrow", id="one-line"),
            pytest.param(png_of(32, 0), "the image", id="no-lines"),
            pytest.param(encoded("GIF"), "not a JPEG, PNG, WebP or BMP", id="gif"),
            pytest.param(b"Dear Sir or Madam,\n", "not a JPEG, PNG, WebP or BMP", id="text"),
            pytest.param(b"RIFF\0\0\0\0WEBP", "the image", id="webp-of-12-bytes"),
            pytest.param(b"BM" + bytes(10), "the image", id="bmp-of-12-bytes"),
            pytest.param(b"", "there is no image", id="empty"),
        ],
    )
    @pytest.mark.parametrize("path", ["/predict", "/v2/models/demo/predict"])
    def test_what_is_no_image_is_told(self, client: httpx.Client, path: str, content: bytes, pattern: str) -> None:
        refused(client.post(path, content=content), 400, pattern)
        refused(client.post(path, files={"image": ("name.jpg", content)}), 400, pattern)

    @pytest.mark.parametrize("top_k", ["0", "-1", "1001", "x", "", "1.5", "²", "9" * 5000])
    def test_a_wrong_top_k(self, client: httpx.Client, top_k: str) -> None:
        refused(client.post("/predict", params={"top_k": top_k}, content=encoded("PNG")), 400, "top_k is ")


class TestForms:
    def test_without_the_field(self, client: httpx.Client) -> None:
        refused(client.post("/predict", files={"photo": ("a.png", encoded("PNG"))}), 400, "no field 'image'")

    def test_with_text_in_the_field(self, client: httpx.Client) -> None:
        part = {"photo": ("a.png", b"x")}
        refused(client.post("/predict", files=part, data={"image": "a.png"}), 400, "'image' of the form is text")

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data; boundary=b", b"no boundary at all"),
            (
                "multipart/form-data; boundary=b",
                b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n',
            ),
            ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="image"; filename="a'),
            ("multipart/form-data; boundary=b", b"--b\r\n\r\nno disposition\r\n--b--\r\n"),
            ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
            ("multipart/form-data; boundary=b", b"--b--\r\n"),
            ("multipart/form-data; boundary=b", b""),
            ("multipart/form-data", b"--b\r\n"),
            ("Multipart/Form-Data; boundary=", b"--\r\n"),
            ("multipart/form-data; boundary=" + "b" * 1000, b"--b\r\n"),
            (
                "multipart/form-data; boundary=b; charset=nope",
                b"--b\r\nContent-Disposition: form-data; name=\xff\r\n\r\n",
            ),
        ],
        ids=range(11),
    )
    def test_damaged(self, client: httpx.Client, content_type: str, body: bytes) -> None:
        refused(client.post("/predict", content=body, headers={"Content-Type": content_type}), 400, "the form ")

    def test_with_too_many_parts(self, client: httpx.Client) -> None:
        parts = [("x", ("x", b""))] * 100
        refused(client.post("/predict", files=parts), 400, "the form cannot be read: Too many files")


class TestTensors:
    @pytest.mark.parametrize(
        ("content", "headers", "pattern"),
        [
            pytest.param("[" * 10_000 + "]" * 10_000, {}, "JSON", id="deep"),
            pytest.param('{"inputs":' + '{"a":' * 10_000 + "1" + "}" * 10_001, {}, "JSON|deep", id="deep-objects"),
            pytest.param(
                json.dumps(request(data=[])).replace("[]", "[" * 10_000 + "1" + "]" * 10_000),
                {},
                "image|deep",
                id="deep-data",
            ),
            pytest.param(json.dumps(request(data=[float("nan")] * 3072)), {}, "JSON|data", id="nan"),
            pytest.param(json.dumps(request(data=[1.0])), {}, "image.*data", id="too-few-elements"),
            pytest.param(json.dumps(request(data=[1.0] * 4000)), {}, "image.*data", id="too-many-elements"),
            pytest.param(json.dumps(request(data=["x"] * 3072)), {}, "image.*data", id="strings"),
            pytest.param(json.dumps(request(data=[10**400] * 3072)), {}, "image.*data|JSON", id="huge-numbers"),
            pytest.param(json.dumps(request(data=None)), {}, "neither 'data' nor", id="no-data"),
            pytest.param(json.dumps(request(shape=[1, 3, 32, 10**30])), {}, "shape|JSON", id="huge-dimension"),
            pytest.param(json.dumps(request(shape=[-1, 3, 32, 32])), {}, "at least 1", id="negative-dimension"),
            pytest.param(json.dumps(request(shape=[10**15, 3, 32, 32])), {}, "at most 16", id="too-many-rows"),
            pytest.param(json.dumps(request(shape=[1] * 1000)), {}, "4 dimensions", id="too-many-dimensions"),
            pytest.param(json.dumps({"inputs": []}), {}, "'image' is missing", id="no-inputs"),
            pytest.param(
                json.dumps(request(data=None, parameters={"binary_data_size": 10**12})),
                {},
                "binary_data_size",
                id="binary-size",
            ),
            pytest.param(
                json.dumps(request(data=None, parameters={"binary_data_size": 12_288})),
                {},
                "0 bytes",
                id="binary-absent",
            ),
            pytest.param("", {}, "not JSON", id="empty"),
            pytest.param("null", {}, "JSON", id="null"),
            pytest.param("{}", {LENGTH: "3"}, "body has 2 bytes", id="length-too-large"),
            pytest.param("{}", {LENGTH: "x"}, "no length", id="length-no-number"),
            pytest.param("{}", {LENGTH: "-1"}, "no length", id="length-negative"),
            pytest.param("{}", {LENGTH: "²"}, "no length", id="length-superscript"),
            pytest.param("{}", {LENGTH: "9" * 5000}, "no length", id="length-huge"),
            pytest.param("{}", {LENGTH: "0"}, "image", id="raw-of-2-bytes"),
            pytest.param(b"\xff\xfe{}", {}, "JSON", id="not-utf-8"),
        ],
    )
    def test_what_does_not_fit_is_told(
        self, client: httpx.Client, content: str | bytes, headers: dict[str, str], pattern: str
    ) -> None:
        encoded_headers = {name: value.encode("latin-1") for name, value in headers.items()}
        refused(client.post(INFER, content=content, headers=encoded_headers), 400, pattern)

    @pytest.mark.parametrize("timeout", ["-1", "true", '"soon"', "1e30", str(10**400)])
    def test_a_wrong_timeout(self, client: httpx.Client, timeout: str) -> None:
        content = json.dumps(request() | {"parameters": {"timeout": 7777}}).replace("7777", timeout)
        refused(client.post(INFER, content=content), 400, "timeout|JSON")

    @pytest.mark.parametrize("timeout", ["0", "1e18", "30000000"])
    def test_a_long_timeout_is_shortened(self, client: httpx.Client, timeout: str) -> None:
        content = json.dumps(request() | {"parameters": {"timeout": 7777}}).replace("7777", timeout)
        assert client.post(INFER, content=content).status_code == 200


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/v2//",
            "/v3",
            "/v2/models",
            "/v2/models/demo/",
            "/v2/models/demo/nothing",
            "/v2/models/../../etc/passwd",
            "/v2/models/%2e%2e%2fdemo",
            "/v2/models/%2e%2e/ready",
            "/v2/models/..%2f..%2fdemo/ready",
            "/v2/models/demo%00",
            "/v2/models/demo%00.onnx/config",
            "/v2/models/%ff%fe/ready",
            "/v2/models/" + "x" * 5000,
            "/v2/models/demo/versions/../1",
            "/v2/models/demo/versions/%2e%2e%2f1",
            "/v2/models/demo/versions/2",
            "/v2/models/demo/versions/-1/ready?x",
            "/v2/models/demo/versions/01",
        ],
    )
    def test_what_is_not_there(self, server: Server, path: str) -> None:
        # Not httpx, which tidies paths.
        status, _, body = exchange(server, b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status == 404, body
        error = json.loads(body)["error"]
        assert re.match("there is nothing at this path|there is no model|the model 'demo' has no version", error)
        assert len(error) < 120

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/predict", "POST"),
            ("GET", INFER, "POST"),
            ("HEAD", INFER, "POST"),
            ("PUT", "/v2/models/demo/predict", "POST"),
            ("POST", "/v2", "GET, HEAD"),
            ("DELETE", "/v2/models/demo", "GET, HEAD"),
            ("POST", "/v2/models/demo/config", "GET, HEAD"),
            ("GET", "/v2/repository/index", "POST"),
            ("OPTIONS", "/v2/health/live", "GET, HEAD"),
        ],
    )
    def test_a_wrong_method(self, client: httpx.Client, method: str, path: str, allowed: str) -> None:
        response = client.request(method, path)
        assert sorted(response.headers["allow"].split(", ")) == allowed.split(", ")
        assert response.status_code == 405
        if method != "HEAD":
            refused(response, 405, f"{method} is not taken here, only {allowed}$")

    @pytest.mark.parametrize(
        "path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/demo", "/v2/models/stats"]
    )
    def test_head_is_get_without_its_body(self, client: httpx.Client, path: str) -> None:
        head, whole = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == whole.headers["content-length"]


class TestSizes:
    @pytest.mark.parametrize("path", ["/predict", INFER])
    @pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["", "expect"])
    def test_a_body_of_two_gigabytes_is_refused_before_it_is_read(
        self, server: Server, path: str, expect: bytes
    ) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {GB2}\r\n".encode() + expect + b"\r\n"
        status, headers, body = exchange(server, head)
        assert (status, headers["connection"]) == (413, "close")
        assert json.loads(body)["error"] == "the body of 2,000,000,000 bytes is over the limit of 67,108,864"

    def test_a_chunked_body_over_the_limit(self, client: httpx.Client) -> None:
        def endless() -> Iterator[bytes]:
            for _ in range(65):
                yield bytes(2**20)

        refused(client.post("/predict", content=endless()), 413, "the body is over the limit of 67,108,864 bytes")

    def test_a_client_that_leaves_in_the_middle(self, server: Server) -> None:
        for _ in range(20):
            with connected(server) as link:
                link.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf")


class TestRequestIds:
    @pytest.mark.parametrize("path", ["/v2", "/nowhere", "/v2/models/nope"])
    def test_the_client_s_own_comes_back(self, client: httpx.Client, path: str) -> None:
        response = client.get(
            path, headers={"X-Request-Id": "abc-1:2/3", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
        )
        assert response.headers.get_list("x-request-id") == ["abc-1:2/3"]

    def test_a_trace_names_its_requests(self, client: httpx.Client) -> None:
        response = client.get("/v2", headers={"traceparent": f"00-{'4bf92f35' * 4}-{'b' * 16}-01"})
        assert response.headers["x-request-id"] == "4bf92f35" * 4

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"x-request-id": "x" * 129},
            {"x-request-id": "with blank"},
            {"x-request-id": "<script>"},
            {"x-request-id": ""},
            {"traceparent": f"00-{'0' * 32}-{'b' * 16}-01"},
            {"traceparent": "00-xyz"},
        ],
        ids=str,
    )
    def test_one_is_made_up_where_there_is_none_to_use(self, client: httpx.Client, headers: dict[str, str]) -> None:
        names = [client.get("/v2", headers=headers).headers["x-request-id"] for _ in range(2)]
        assert all(re.fullmatch("[0-9a-f]{16}", name) for name in names)
        assert names[0] != names[1]


class TestWhatIsNotHttp:
    @pytest.mark.parametrize(
        "content",
        [
            b"hello\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ],
        ids=range(9),
    )
    def test_is_refused_as_such(self, server: Server, content: bytes) -> None:
        status, _, _ = exchange(server, content)
        assert status == 400


class TestFuzz:
    def test_a_few_hundred_damaged_requests(self, client: httpx.Client) -> None:
        rng = random.Random(20)
        sources = samples()
        statuses: dict[int, int] = {}
        for number in range(400):
            path, headers, body = rng.choice(sources)
            body, headers = damaged(body, rng), {name: damaged_text(value, rng) for name, value in headers.items()}
            response = client.post(path, content=body, headers=headers)
            told = (number, path, headers, body[:200], response.text)
            assert response.status_code < 500, told
            if response.status_code != 200:
                assert set(response.json()) == {"error"}, told
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert statuses[400] > 100
        assert statuses[200] > 10


def samples() -> list[tuple[str, dict[str, str], bytes]]:
    """Good requests of every kind."""
    found: list[tuple[str, dict[str, str], bytes]] = [
        ("/predict", {}, encoded(kind)) for kind in ("JPEG", "PNG", "WEBP", "BMP")
    ]
    form = httpx.Request("POST", "http://x", files={"image": ("a.png", encoded("PNG"))})
    found.append(("/predict?top_k=3", {"Content-Type": form.headers["Content-Type"]}, form.read()))
    found.append((INFER, {}, json.dumps(request(data=[0.5] * 3072)).encode()))
    head = json.dumps(request(data=None, parameters={"binary_data_size": 12_288})).encode()
    found.append((INFER, {LENGTH: str(len(head))}, head + bytes(12_288)))
    found.append((INFER, {LENGTH: "0"}, bytes(12_288)))
    return found


def damaged(body: bytes, rng: random.Random) -> bytes:
    """A body with one to eight things wrong, most near its beginning, where formats have their structure."""
    found = body
    for _ in range(rng.randint(1, 8)):
        near = int(rng.expovariate(1 / 60)) if rng.random() < 0.7 else rng.randrange(len(found) + 1)
        at = min(near, len(found))
        kind = rng.randrange(5)
        start, rest = found[:at], found[at:]
        found = (
            start + rng.randbytes(1) + rest[1:],
            start + rng.choice([b"\x00", b"\xff", b"-", b"9", b"[", b"}"]) + rest[1:],
            start + rng.randbytes(rng.randint(1, 20)) + rest,
            start + rest[rng.randint(1, 20) :],
            start + rest[:30] + rest,
        )[kind]
    return found[: rng.randrange(len(found) + 1)] if rng.random() < 0.1 else found


def damaged_text(text: str, rng: random.Random) -> str:
    if rng.random() < 0.7:
        return text
    return rng.choice([text[:-1], text + "0", "-" + text, "", "0", text * 2, text.replace("boundary", "b")])


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
