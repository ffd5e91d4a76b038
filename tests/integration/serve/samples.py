"""Good requests of every kind, for fuzzing to damage."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import numpy as np
from PIL import Image

from ranksmith.serve.frames import Frame, Kind, Tensor
from ranksmith.serve.messages import Ask, dumps
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from tests.integration.serve.asking import INFER, LENGTH, encoded, request

__all__ = ["ROW", "STREAM", "HttpRequest", "frames", "grpc_requests", "head_of_binary", "http_requests", "with_head"]

ROW = bytes(12_288)
STREAM = "ModelStreamInfer"
# Path, headers and body of a POST.
HttpRequest = tuple[str, dict[str, str], bytes]


def pictures() -> list[bytes]:
    """Of every kind that is taken."""
    found = [encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP")]
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
    for kind, mode, options in (
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {"comment": b"x" * 50}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "LA", {}),
        ("PNG", "1", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("BMP", "P", {}),
    ):
        stream = io.BytesIO()
        converted = pixels.convert("I").convert(mode) if mode == "I;16" else pixels.convert(mode)
        converted.save(stream, kind, **options)
        found.append(stream.getvalue())
    return found


def http_requests() -> list[HttpRequest]:
    """Good ones of every kind."""
    found: list[HttpRequest] = [("/predict", {}, picture) for picture in pictures()]
    form = httpx.Request("POST", "http://x", files={"image": ("a.png", encoded("PNG"))})
    found.append(("/predict?top_k=3", {"Content-Type": form.headers["Content-Type"]}, form.read()))
    found.append((INFER, {}, json.dumps(request(data=[0.5] * 3072)).encode()))
    found.append((INFER, *with_head(head_of_binary())))
    found.append((INFER, {LENGTH: "0"}, ROW))
    found.append(("/v2/repository/index", {}, b'{"ready": true}'))
    return found


def head_of_binary() -> dict[str, Any]:
    wanted = {"name": "logits", "parameters": {"binary_data": True}}
    head = request(data=None, parameters={"binary_data_size": len(ROW)})
    return head | {"id": "a", "outputs": [wanted], "parameters": {"timeout": 5_000_000}}


def with_head(head: Any) -> tuple[dict[str, str], bytes]:
    content = json.dumps(head).encode()
    return {LENGTH: str(len(content))}, content + ROW


def grpc_requests() -> list[tuple[str, Any]]:
    """Good ones, by the name of their method."""
    tensor = pb.ModelInferRequest(model_name="demo", id="a")
    tensor.inputs.add(name="image", datatype="FP32", shape=[1, 3, 32, 32])
    tensor.outputs.add(name="logits")
    tensor.parameters["timeout"].int64_param = 5_000_000
    typed = pb.ModelInferRequest()
    typed.CopyFrom(tensor)
    tensor.raw_input_contents.append(ROW)
    typed.inputs[0].contents.fp32_contents.extend([0.5] * 3072)
    image = pb.ModelInferRequest(model_name="demo", model_version="1")
    image.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(encoded("PNG"))
    image.parameters["top_k"].int64_param = 3
    return [
        *((method, message) for method in ("ModelInfer", STREAM) for message in (tensor, typed, image)),
        ("ModelMetadata", pb.ModelMetadataRequest(name="demo")),
        ("ModelReady", pb.ModelReadyRequest(name="demo", version="1")),
        ("ModelConfig", pb.ModelConfigRequest(name="demo")),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="demo")),
        ("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)),
    ]


def frames() -> list[Frame]:
    """Good ones that a front end could send."""
    row = Tensor("image", "FP32", (1, 3, 32, 32), ROW)
    picture = encoded("PNG")
    return [
        Frame(Kind.INFER, 1, 1, 1e9, dumps(Ask(ids=["a"], outputs=["logits"])), (row,)),
        Frame(Kind.INFER, 2, 1, 0.0, b"", (row,)),
        Frame(Kind.IMAGE, 3, 1, 1e9, dumps(Ask(top_k=3)), (Tensor("image", "UINT8", (len(picture),), picture),)),
        Frame(Kind.CANCEL, 1, 1),
    ]
