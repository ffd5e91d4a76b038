"""Whatever comes as image, form or tensor, its sender gets one clear line, and the server goes on as before."""

from __future__ import annotations

import json
import struct
import zlib

import httpx
import pytest

from tests.integration.serve.asking import INFER, LENGTH, encoded, refused, request


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large; it holds a few pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))

    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


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
