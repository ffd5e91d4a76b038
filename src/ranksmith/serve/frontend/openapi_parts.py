"""What the paths of the OpenAPI document are made of: schemas, parameters, headers and failures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from ranksmith.serve.oip.extensions import AllStatistics, IndexEntry, IndexRequest, ModelConfig
from ranksmith.serve.oip.rest import HEADER_LENGTH
from ranksmith.serve.oip.schema import (
    ErrorResponse,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelReady,
    Predictions,
    ServerLive,
    ServerMetadata,
    ServerReady,
)

__all__ = [
    "FAILURES",
    "NAMED",
    "Json",
    "Model",
    "components",
    "either",
    "failure",
    "json_of",
    "parameter",
    "ref",
    "text",
]

Json = dict[str, Any]
Model = tuple[str, str]
Struct = type[msgspec.Struct]

_STRUCTS = (
    AllStatistics,
    ErrorResponse,
    IndexEntry,
    IndexRequest,
    InferRequest,
    InferResponse,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    Predictions,
    ServerLive,
    ServerMetadata,
    ServerReady,
)

FAILURES = {
    "Invalid": (400, "Something in the request is wrong; the message says what."),
    "Unknown": (404, "There is no such model, or not in this version."),
    "Late": (408, "The request did not arrive in time. The connection is closed."),
    "TooLarge": (413, "The body is over the limit. The connection is closed."),
    "HeadersTooLarge": (431, "The headers are over the limit. The connection is closed."),
    "Failed": (500, "The model failed on this request, or there is a bug in the server."),
    "Unavailable": (503, "The model is not ready, or too much is waiting."),
    "Expired": (504, "The request was not answered by its deadline."),
}

NAMED: Mapping[str, Json] = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}

_HEADERS: Json = {
    "RequestId": {"description": "The request's name.", "schema": {"type": "string"}},
    "RetryAfter": {
        "description": "Seconds until it is worth trying again.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Length": {
        "description": "Where the JSON ends and binary data begin.",
        "schema": {"type": "integer", "minimum": 1},
    },
}


def components(models: tuple[Model, ...]) -> Json:
    """All that is referred to.

    Args:
        models: name and active version of each.
    """
    return {
        "schemas": _schemas(),
        "parameters": _parameters(models),
        "headers": _HEADERS,
        "responses": {name: failure(told, is_again=status == 503) for name, (status, told) in FAILURES.items()},
    }


def ref(struct: Struct) -> Json:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


def parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


def json_of(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def text(media_type: str) -> Json:
    return {media_type: {"schema": {"type": "string"}}}


def failure(told: str, schema: Json | None = None, *, is_again: bool) -> Json:
    """
    Args:
        is_again: whether trying again may help.
    """
    headers = dict(NAMED)
    if is_again:
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {"description": told, "headers": headers, "content": json_of(schema or ref(ErrorResponse))}


def either(struct: Struct, told: str) -> Json:
    """A failure that is told in the words of an answer, unless it is the connection that is refused."""
    return failure(told, {"anyOf": [ref(struct), ref(ErrorResponse)]}, is_again=True)


@cache
def _schemas() -> Json:
    return msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")[1]


def _parameters(models: tuple[Model, ...]) -> Json:
    names = [name for name, _ in models]
    versions = sorted({version for _, version in models})
    return {
        "model": {
            "name": "model",
            "in": "path",
            "required": True,
            "description": "One of the models that are served.",
            "schema": {"type": "string", **({"enum": names} if names else {})},
        },
        "version": {
            "name": "version",
            "in": "path",
            "required": True,
            "description": "The one that is active; every swap counts it up.",
            "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
            **({"example": versions[0]} if versions else {}),
        },
        "top_k": {
            "name": "top_k",
            "in": "query",
            "description": "How many classes are told, at most.",
            "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 5},
        },
        "length": {
            "name": HEADER_LENGTH,
            "in": "header",
            "description": "Bytes of JSON before the binary data.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "request_id": {
            "name": "X-Request-Id",
            "in": "header",
            "description": "A name for this request: up to 128 of the characters A-Z a-z 0-9 . _ : / + = @ -",
            "schema": {"type": "string"},
        },
        "trace": {
            "name": "traceparent",
            "in": "header",
            "description": "Of W3C Trace Context.",
            "schema": {"type": "string"},
        },
    }
