"""The OpenAPI document says what is served, and no more."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Route

from ranksmith.serve.frontend.docs import docs_page, shape_of
from ranksmith.serve.frontend.http import make_http
from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.openapi import document, document_json
from ranksmith.serve.frontend.pool import Pool

MODELS = (("demo", "3"), ("other", "1"))

# https://github.com/kserve/open-inference-protocol/blob/18d5991e9e45d291f53103cc79e13ecc6212ffae/specification/protocol/open_inference_rest.yaml
# It writes ${MODEL_NAME} where a template of OpenAPI is {MODEL_NAME}.
OFFICIAL = {
    ("get", "/v2/health/live"),
    ("get", "/v2/health/ready"),
    ("get", "/v2/models/${MODEL_NAME}/versions/${MODEL_VERSION}/ready"),
    ("get", "/v2/"),
    ("get", "/v2/models/${MODEL_NAME}/versions/${MODEL_VERSION}"),
    ("post", "/v2/models/${MODEL_NAME}/versions/${MODEL_VERSION}/infer"),
}
# What its schemas say must be there, by ours.
REQUIRED = {
    "ServerMetadata": {"name", "version", "extensions"},
    "ErrorResponse": {"error"},
    "ModelMetadata": {"name", "platform"},
    "TensorInfo": {"name", "datatype", "shape"},
    "InferResponse": {"model_name", "outputs"},
}


@pytest.fixture
def told() -> dict[str, Any]:
    return json.loads(document_json(MODELS))


def operations(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in told["paths"].items():
        for method in set(item) - {"parameters"}:
            yield method, path, item[method]


def references(part: Any) -> Iterator[str]:
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from references(each)
    if isinstance(part, dict) and isinstance(part.get("$ref"), str):
        yield part["$ref"]


def test_its_paths_are_those_of_the_server(told: dict[str, Any]) -> None:
    routes = [route for route in make_http(Pool(), Limits())[0].routes if isinstance(route, Route)]
    served = {(method.lower(), route.path) for route in routes for method in route.methods or () if method != "HEAD"}
    assert {(method, path) for method, path, _ in operations(told)} == served


def test_it_has_the_operations_of_the_protocol(told: dict[str, Any]) -> None:
    ours = {(method, path) for method, path, _ in operations(told)}
    assert {
        (method, path.replace("${MODEL_NAME}", "{model}").replace("${MODEL_VERSION}", "{version}"))
        for method, path in OFFICIAL
    } <= ours


@pytest.mark.parametrize(("name", "required"), REQUIRED.items())
def test_an_answer_has_what_the_protocol_requires(told: dict[str, Any], name: str, required: set[str]) -> None:
    assert required <= set(told["components"]["schemas"][name]["required"])


def test_what_is_referred_to_is_there_and_nothing_else(told: dict[str, Any]) -> None:
    known = {f"#/components/{kind}/{name}" for kind, named in told["components"].items() for name in named}
    assert set(references(told)) == known


def test_operations_have_names_of_their_own(told: dict[str, Any]) -> None:
    names = Counter(operation["operationId"] for _, _, operation in operations(told))
    assert set(names.values()) == {1}


def test_every_failure_is_told_in_the_same_way(told: dict[str, Any]) -> None:
    for name, answer in told["components"]["responses"].items():
        schema = answer["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorResponse"}, name


def test_it_names_the_models_that_are_served(told: dict[str, Any]) -> None:
    parameters = told["components"]["parameters"]
    assert parameters["model"]["schema"]["enum"] == ["demo", "other"]
    assert parameters["version"]["example"] == "1"
    none = document(())["components"]["parameters"]
    assert "enum" not in none["model"]["schema"]
    assert "example" not in none["version"]


class TestPage:
    def test_it_has_every_operation_and_schema(self, told: dict[str, Any]) -> None:
        page = docs_page(MODELS)
        for _, path, operation in operations(told):
            assert f'id="{operation["operationId"]}"' in page
            assert f"<code>{path}</code>" in page
        for name in told["components"]["schemas"]:
            assert f'id="{name}"' in page

    def test_a_name_is_text_whatever_is_in_it(self) -> None:
        page = docs_page((("<b>bold", "1"),))
        assert "&lt;b&gt;bold" in page
        assert "<b>bold" not in page

    @pytest.mark.parametrize(
        ("schema", "words"),
        [
            ({"type": "string"}, "string"),
            ({}, "anything"),
            ({"type": "array", "items": {"type": "integer"}}, "array of integer"),
            ({"type": ["array", "null"]}, "array or null"),
            ({"anyOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]}, '<a href="#A">A</a> or null'),
            ({"enum": ["<x>", "y"]}, "“&lt;x&gt;” or “y”"),
            ({"type": "integer", "minimum": 1, "maximum": 1000}, "integer from 1 to 1000"),
            ({"type": "string", "format": "binary"}, "bytes"),
            ({"type": "object", "properties": {"image": {}}}, "form with image"),
            ({"type": "object", "additionalProperties": {"type": "number"}}, "object of number"),
        ],
    )
    def test_a_schema_is_told_in_words(self, schema: dict[str, Any], words: str) -> None:
        assert str(shape_of(schema)) == words
