"""Requests over REST whose JSON has been read before, and their answers.

Clients ask the same thing of other data over and over: where one input follows the JSON as binary data, the same JSON
means the same request but for those bytes, and the answer begins with the same JSON but for the shapes in it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from ranksmith.serve.frames import Tensor
from ranksmith.serve.oip import datatypes, rest
from ranksmith.serve.oip.signature import Asked, ModelSignature

__all__ = ["KnownRequests"]

_MOST_BYTES = 2048
_MOST_REQUESTS = 1024


class _Known(NamedTuple):
    asked: Asked
    tensor: Tensor
    data_bytes: int


class KnownRequests:
    """Those of one model, and not too many."""

    def __init__(self, signature: ModelSignature) -> None:
        self._signature = signature
        self._known: dict[bytes, _Known] = {}
        self._answers: dict[Hashable, bytes] = {}

    def decode(self, body: memoryview, json_bytes: int | None) -> Asked:
        """As `rest.decode` does.

        Raises:
            InvalidRequestError: see there.
        """
        if not json_bytes or json_bytes > _MOST_BYTES:
            return rest.decode(body, json_bytes, self._signature)
        text = bytes(body[:json_bytes])
        data = body[json_bytes:]
        known = self._known.get(text)
        if known is not None and known.data_bytes == data.nbytes:
            asked, (name, datatype, shape, _), _ = known
            given = (Tensor(name, datatype, shape, data),)
            return Asked(None, given, asked.outputs, asked.rows, asked.parameters, asked.like)
        asked = rest.decode(body, json_bytes, self._signature)
        if _is_repeated(asked, data.nbytes):
            if len(self._known) >= _MOST_REQUESTS:
                self._known.clear()
            (tensor,) = asked.tensors
            bare = tensor._replace(data=b"")
            self._known[text] = _Known(asked._replace(tensors=(), like=object()), bare, data.nbytes)
        return asked

    def encode(
        self, version: str, outputs: Sequence[Tensor], asked: Asked
    ) -> tuple[list[bytes | memoryview], int | None]:
        """As `rest.encode` does."""
        key = (asked.like, version, *[tensor.shape for tensor in outputs])
        text = None if asked.like is None else self._answers.get(key)
        if text is not None:
            given = {tensor.name: memoryview(tensor.data) for tensor in outputs}
            return [text, *[given[wanted.name] for wanted in asked.outputs]], len(text)
        parts, json_bytes = rest.encode(self._signature.name, version, asked.id, outputs, asked)
        if asked.like is not None and all(wanted.binary for wanted in asked.outputs):
            if len(self._answers) >= _MOST_REQUESTS:
                self._answers.clear()
            self._answers[key] = bytes(parts[0])
        return parts, json_bytes


def _is_repeated(asked: Asked, data_bytes: int) -> bool:
    """Whether nothing can differ the next time but bytes of which any are valid."""
    if asked.id is not None or len(asked.tensors) != 1:
        return False
    tensor = asked.tensors[0]
    return memoryview(tensor.data).nbytes == data_bytes and datatypes.takes_any_bytes(tensor.datatype)
