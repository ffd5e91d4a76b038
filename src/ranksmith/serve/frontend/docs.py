"""The OpenAPI document as a page for people, which needs nothing but itself: no script, and nothing to load."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from ranksmith.serve.frontend.openapi import document
from ranksmith.serve.frontend.openapi_parts import Json, Model

__all__ = ["PAGE_HEADERS", "docs_page", "shape_of"]

PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}

_CODE = re.compile(r"`([^`]+)`")
_SCHEMAS = "#/components/schemas/"


@lru_cache(maxsize=4)
def docs_page(models: tuple[Model, ...]) -> str:
    """The page as HTML."""
    return _template().render(document=document(models), models=models)


def shape_of(schema: Json) -> Markup:
    """A JSON schema in a few words, such as "array of InferInput" or "string or null", as HTML with links."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMAS)
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if "anyOf" in schema:
        return _either([shape_of(each) for each in schema["anyOf"]])
    if "enum" in schema:
        return _either([escape(f"“{each}”") for each in schema["enum"]])
    kinds = schema.get("type", "anything")
    return _either([_kind(kind, schema) for kind in ([kinds] if isinstance(kinds, str) else kinds)])


def _kind(kind: str, schema: Json) -> Markup:
    if kind == "array" and schema.get("items"):
        return Markup("array of ") + shape_of(schema["items"])
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of ") + shape_of(schema["additionalProperties"])
    if kind == "object" and "properties" in schema:
        return Markup("form with ") + escape(", ".join(schema["properties"]))
    if kind == "integer" and schema.get("minimum") is not None and schema.get("maximum", 2**32) < 2**32:
        return escape(f"{kind} from {schema['minimum']} to {schema['maximum']}")
    return escape("bytes" if schema.get("format") == "binary" else kind)


def _either(shapes: list[Markup]) -> Markup:
    return Markup(" or ").join(shapes)


def _prose(text: str) -> Markup:
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _resolved(part: Json, whole: Json) -> Any:
    """What a reference refers to; anything else as it is."""
    found: Any = part
    if "$ref" in part:
        found = whole
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
    return found


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("ranksmith.serve.frontend"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": _prose, "resolved": _resolved, "shape": shape_of}
    return environment.get_template("docs.html.j2")
