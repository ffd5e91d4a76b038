"""Results to JSON and back."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec

__all__ = ["from_json", "to_json"]

T = TypeVar("T")


def to_json(result: Any, *, indent: int = 2) -> str:
    """One JSON document; NaN and infinity become null, as JSON has neither."""
    encoded = msgspec.json.encode(_finite(msgspec.to_builtins(result)))
    return msgspec.json.format(encoded, indent=indent).decode()


def from_json(text: str | bytes, kind: type[T]) -> T:
    """Parse `text` as `kind`.

    Raises:
        msgspec.ValidationError: a field is missing or of the wrong type (translated by the caller,
            who knows the file's name).
    """
    return msgspec.json.decode(text, type=kind)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
