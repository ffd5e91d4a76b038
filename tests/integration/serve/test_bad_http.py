"""Paths, methods, sizes and bytes that are no request are told in one line; every answer has its request's id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.serve.asking import INFER, connected, exchange, refused
from tests.integration.serve.server import Server

GB2 = 2 * 10**9


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
