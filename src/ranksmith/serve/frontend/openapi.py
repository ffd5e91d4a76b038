"""The OpenAPI 3.1 document of everything that is served over HTTP.

Schemas are made from the structs that are read and written, so that they cannot say anything else; a test holds the
paths against the routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from ranksmith._version import __version__
from ranksmith.serve.frontend.openapi_parts import (
    FAILURES,
    NAMED,
    Json,
    Model,
    components,
    either,
    json_of,
    parameter,
    ref,
    text,
)
from ranksmith.serve.oip.extensions import AllStatistics, IndexEntry, IndexRequest, ModelConfig
from ranksmith.serve.oip.rest import HEADER_LENGTH
from ranksmith.serve.oip.schema import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelReady,
    Predictions,
    ServerLive,
    ServerMetadata,
    ServerReady,
)

__all__ = ["document", "document_json"]

_BYTES: Json = {"type": "string", "format": "binary"}
_BINARY: Json = {"application/octet-stream": {"schema": _BYTES}}
_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/bmp")

_ABOUT = f"""\
Models behind the Open Inference Protocol v2, with binary tensor data and Triton's extensions, and images at `/predict`.

Every path that takes GET takes HEAD as well. Whatever fails, the answer is JSON, and its `error` one line. Each answer
has the name of its request in `X-Request-Id`: what the request said there, or the trace of its `traceparent`, or an id
made up for it.

Tensors travel as JSON, or as binary data after it; then `{HEADER_LENGTH}` says where the JSON ends."""

_INFER = f"""\
A body with binary data is an `InferRequest` whose inputs have the parameter `binary_data_size`, and after it their
data in the same order; `{HEADER_LENGTH}` says how long the JSON is. Where that is 0, the body is one row of the only
input.

The answer has binary data where an output's `binary_data`, or else the request's `binary_data_output`, is true. Beside
these the parameter `timeout`, in microseconds, is looked at."""

_PREDICT = """\
A JPEG, PNG, WebP or BMP, as the body or as the form's field `image`. What it is is seen from its first bytes.
`Accept: text/plain` asks for the most probable label alone."""

# What a connection may answer whatever was asked.
_ANYWHERE = ("Invalid", "Late", "HeadersTooLarge", "Failed", "Unavailable")
_WITH_MODEL = ("Unknown",)
_WITH_BODY = ("TooLarge",)
_RUN = (*_WITH_MODEL, *_WITH_BODY, "Expired")


@lru_cache(maxsize=4)
def document_json(models: tuple[Model, ...]) -> bytes:
    """The document as it is served."""
    return msgspec.json.encode(document(models))


def document(models: tuple[Model, ...]) -> Json:
    """
    Args:
        models: name and active version of each that is served.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ranksmith",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "externalDocs": {
            "description": "The Open Inference Protocol",
            "url": "https://github.com/kserve/open-inference-protocol",
        },
        "tags": [
            {"name": "inference", "description": "Images and tensors in, classes and tensors out."},
            {"name": "models", "description": "What is served."},
            {"name": "health", "description": "For probes: 200 where all is well, 503 where it is not."},
            {"name": "server", "description": "What the server tells of itself."},
        ],
        "paths": _of_the_server() | _of_a_model("") | _of_a_model("/versions/{version}"),
        "components": components(models),
    }


def _of_the_server() -> Json:
    index = {"type": "array", "items": ref(IndexEntry)}
    no_model = "At least one model cannot, or there are too many connections."
    return {
        "/v2/health/live": _get("health", "isServerLive", "Whether the server runs.", json_of(ref(ServerLive))),
        "/v2/health/ready": _get(
            "health",
            "isServerReady",
            "Whether every model can answer.",
            json_of(ref(ServerReady)),
            unready=either(ServerReady, no_model),
        ),
        "/v2": _get("server", "getServer", "What the server is.", json_of(ref(ServerMetadata))),
        "/v2/": _get("server", "getServerAtSlash", "The same as at /v2.", json_of(ref(ServerMetadata))),
        "/v2/models/stats": _get(
            "models", "getStatistics", "Counts and durations of every model.", json_of(ref(AllStatistics))
        ),
        "/v2/repository/index": _post(
            "models",
            "getIndex",
            "The models, and whether they can answer.",
            json_of(ref(IndexRequest)),
            json_of(index),
            _WITH_BODY,
        ),
        "/predict": _predict("predict", "The classes of an image, where one model is served."),
        "/metrics": _get("server", "getMetrics", "For Prometheus, of all front ends.", text("text/plain")),
        "/openapi.json": _get("server", "getOpenApi", "This document.", json_of({"type": "object"})),
        "/docs": _get("server", "getDocs", "This document, for people.", text("text/html")),
    }


def _of_a_model(version: str) -> Json:
    names = ("model", "version") if version else ("model",)
    suffix = "OfVersion" if version else ""
    unready = either(ModelReady, "It cannot, or there are too many connections.")
    operations = {
        "": _get("models", f"getModel{suffix}", "What goes in and out.", json_of(ref(ModelMetadata)), _WITH_MODEL),
        "/ready": _get(
            "health",
            f"isModelReady{suffix}",
            "Whether the model can answer.",
            json_of(ref(ModelReady)),
            _WITH_MODEL,
            unready=unready,
        ),
        "/config": _get(
            "models", f"getModelConfig{suffix}", "As Triton tells it.", json_of(ref(ModelConfig)), _WITH_MODEL
        ),
        "/stats": _get(
            "models",
            f"getModelStatistics{suffix}",
            "Counts and durations.",
            json_of(ref(AllStatistics)),
            _WITH_MODEL,
        ),
        "/infer": _infer(f"infer{suffix}"),
        "/predict": _predict(f"predictWithModel{suffix}", "The classes of an image."),
    }
    base, parameters = f"/v2/models/{{model}}{version}", [parameter(name) for name in names]
    return {base + path: {"parameters": parameters, **operation} for path, operation in operations.items()}


def _infer(name: str) -> Json:
    content = json_of(ref(InferRequest)) | _BINARY, json_of(ref(InferResponse)) | _BINARY
    made = _post("inference", name, "Tensors in, tensors out.", *content, _RUN)
    operation = made["post"]
    operation["description"] = _INFER
    operation["requestBody"]["required"] = True
    operation["parameters"].append(parameter("length"))
    operation["responses"]["200"]["headers"][HEADER_LENGTH] = {"$ref": "#/components/headers/Length"}
    return made


def _predict(name: str, summary: str) -> Json:
    form = {"type": "object", "properties": {"image": _BYTES}, "required": ["image"]}
    body = {
        "multipart/form-data": {"schema": form, "encoding": {"image": {"contentType": ", ".join(_IMAGES)}}},
        **{kind: {"schema": _BYTES} for kind in _IMAGES},
        **_BINARY,
    }
    made = _post("inference", name, summary, body, json_of(ref(Predictions)) | text("text/plain"), _RUN)
    operation = made["post"]
    operation["description"] = _PREDICT
    operation["requestBody"]["required"] = True
    operation["parameters"].append(parameter("top_k"))
    return made


def _get(
    tag: str, name: str, summary: str, answer: Json, failures: Sequence[str] = (), *, unready: Json | None = None
) -> Json:
    """
    Args:
        unready: what 503 says in place of an error.
    """
    operation = _operation(tag, name, summary, answer, failures)
    if unready is not None:
        operation["responses"]["503"] = unready
    return {"get": operation}


def _post(tag: str, name: str, summary: str, body: Json, answer: Json, failures: Sequence[str]) -> Json:
    return {"post": _operation(tag, name, summary, answer, failures) | {"requestBody": {"content": body}}}


def _operation(tag: str, name: str, summary: str, answer: Json, failures: Sequence[str]) -> Json:
    responses: Json = {"200": {"description": "The answer.", "headers": dict(NAMED), "content": answer}}
    for failed in sorted((*_ANYWHERE, *failures), key=lambda each: FAILURES[each]):
        responses[str(FAILURES[failed][0])] = {"$ref": f"#/components/responses/{failed}"}
    return {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        "parameters": [parameter("request_id"), parameter("trace")],
        "responses": responses,
    }
