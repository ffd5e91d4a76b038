"""The infer request and response of the Open Inference Protocol over REST, with the binary tensor data extension.

A body is JSON, or JSON followed by the binary data of its tensors in the order in which the JSON lists them; then the
header `Inference-Header-Content-Length` says where the JSON ends. A length of 0 means that the whole body is the data
of the model's only input, one row of it. Binary tensors stay views of the body. Whatever a client sends, `decode`
raises nothing but `InvalidRequestError`, and it compares every declared size with the model and with the bytes at hand
before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from ranksmith.serve.frames import Tensor
from ranksmith.serve.oip import datatypes
from ranksmith.serve.oip.schema import InferInput, InferOutput, InferRequest, InferResponse, OutputParameters
from ranksmith.serve.oip.signature import (
    Asked,
    InvalidRequestError,
    ModelSignature,
    TensorSpec,
    asked_outputs,
    check_shape,
    given_tensors,
    quoted,
    row_count,
    shown_shape,
)

__all__ = ["HEADER_LENGTH", "decode", "encode", "parse_header_length"]

HEADER_LENGTH = "Inference-Header-Content-Length"

_NULL = b"null"
_REQUEST = msgspec.json.Decoder(InferRequest)
_RESPONSE = msgspec.json.Encoder()


def parse_header_length(value: str | None) -> int | None:
    """The number in an `Inference-Header-Content-Length` header, None where there is no header."""
    if value is None:
        return None
    digits = value.strip(" \t")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise InvalidRequestError(f"{HEADER_LENGTH} {quoted(value)} is no length in bytes")
    return int(digits)


def decode(body: bytes | memoryview, header_length: int | None, signature: ModelSignature) -> Asked:
    """The request in a body, checked against the model."""
    view = memoryview(body).cast("B")
    if header_length == 0:
        return _decode_raw(view, signature)
    request = _parse(view, header_length)
    contents = _Contents(view, header_length)
    tensors = given_tensors(request.inputs, signature, contents.read)
    if contents.left:
        raise InvalidRequestError(f"{contents.left} bytes of the body belong to no input")
    parameters: dict[str, Any] = dict(request.parameters or {})
    binary = parameters.pop("binary_data_output", None)
    if binary is not None and not isinstance(binary, bool):
        raise InvalidRequestError("parameter 'binary_data_output' must be true or false")
    outputs = asked_outputs(request.outputs or (), binary or False, signature)
    return Asked(request.id, tensors, outputs, row_count(tensors, signature), parameters)


def encode(
    model: str,
    version: str,
    id: str | None,  # noqa: A002 - the protocol's name for it
    outputs: Sequence[Tensor],
    asked: Asked,
    parameters: Mapping[str, Any] | None = None,
) -> tuple[list[bytes | memoryview], int | None]:
    """The parts of a response's body, and its `Inference-Header-Content-Length` (None where all is JSON).

    NaN and infinity in an output to send as JSON are refused: JSON has neither, and a null in their place would reach
    a client's numpy as an object, or as a NaN that was an infinity.
    """
    given = {tensor.name: tensor for tensor in outputs}
    entries = []
    data: list[bytes | memoryview] = []
    for wanted in asked.outputs:
        tensor = given[wanted.name]
        if wanted.binary:
            view = memoryview(tensor.data).cast("B")
            data.append(view)
            entries.append(_output(tensor, parameters=OutputParameters(view.nbytes)))
        else:
            entries.append(_output(tensor, data=_json_elements(tensor)))
    response = InferResponse(
        model,
        version,
        entries,
        id=UNSET if id is None else id,
        parameters=dict(parameters) if parameters else UNSET,
    )
    header = _RESPONSE.encode(response)
    return [header, *data], len(header) if data else None


def _parse(view: memoryview, header_length: int | None) -> InferRequest:
    if header_length is not None:
        if not 0 <= header_length <= len(view):
            raise InvalidRequestError(f"{HEADER_LENGTH} is {_short(header_length)}, but the body has {len(view)} bytes")
        view = view[:header_length]
    try:
        return _REQUEST.decode(view)
    except RecursionError:
        raise InvalidRequestError("the request's JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise InvalidRequestError("the request's JSON is not UTF-8") from None
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"the request's JSON does not fit: {str(error).replace('`', '')}") from None
    except msgspec.DecodeError as error:
        hint = f"; binary data after the JSON needs the header {HEADER_LENGTH}" if header_length is None else ""
        raise InvalidRequestError(f"the request is not JSON: {error}{hint}") from None


class _Contents:
    """Gives each input its data: from the JSON, or the next of the bytes after it."""

    def __init__(self, view: memoryview, header_length: int | None) -> None:
        self.view = view
        self.start = len(view) if header_length is None else header_length
        self._has_header = header_length is not None

    @property
    def left(self) -> int:
        """Bytes that belong to no input so far."""
        return len(self.view) - self.start

    def read(self, given: InferInput, shape: tuple[int, ...]) -> memoryview:
        parameters = given.parameters
        if parameters is None or parameters.binary_data_size is None:
            return _json_data(given, shape)
        return self._binary(given, shape, parameters.binary_data_size)

    def _binary(self, given: InferInput, shape: tuple[int, ...], size: int) -> memoryview:
        if _elements(given) is not None:
            raise InvalidRequestError(
                f"input {quoted(given.name)} has both 'data' and 'binary_data_size'; send one of them"
            )
        expected = datatypes.byte_size(given.datatype, shape)
        if size < 0 or (expected is not None and size != expected):
            wanted = (
                "a length" if expected is None else f"{expected} for shape {shown_shape(shape)} of {given.datatype}"
            )
            raise ValueError(f"binary_data_size is {_short(size)}, not {wanted}")
        if size > self.left:
            hint = "" if self._has_header else f"; is the header {HEADER_LENGTH} missing?"
            raise ValueError(f"binary_data_size is {_short(size)}, but {self.left} bytes of the body are left{hint}")
        data = self.view[self.start : self.start + size]
        self.start += size
        datatypes.check_data(given.datatype, shape, data)
        return data


def _json_data(given: InferInput, shape: tuple[int, ...]) -> memoryview:
    name = quoted(given.name)
    if given.parameters is not None and given.parameters.shared_memory_region is not None:
        raise InvalidRequestError(f"input {name}: shared memory is not offered")
    elements = _elements(given)
    if elements is None:
        raise InvalidRequestError(f"input {name} has neither 'data' nor the parameter 'binary_data_size'")
    try:
        return datatypes.decode_elements(given.datatype, shape, elements)
    except ValueError as error:
        raise ValueError(f"data: {error}") from None


def _elements(given: InferInput) -> Raw | None:
    """As they were sent; None where there are none, or null."""
    if given.data is UNSET or bytes(memoryview(given.data)[: len(_NULL) + 1]) == _NULL:
        return None
    return given.data


def _decode_raw(view: memoryview, signature: ModelSignature) -> Asked:
    if len(signature.inputs) != 1:
        raise InvalidRequestError(
            f"{HEADER_LENGTH} 0 is for models with one input; {quoted(signature.name)} has {len(signature.inputs)}"
        )
    spec = signature.inputs[0]
    data: bytes | memoryview = view
    if spec.datatype == "BYTES":
        # The one element of such a body comes without its length.
        shape = tuple(1 for _ in spec.shape)
        data = datatypes.join_elements([view])
    else:
        shape = _raw_shape(spec, len(view), signature)
    check_shape(spec, spec.datatype, shape, signature)
    try:
        datatypes.check_data(spec.datatype, shape, data)
    except ValueError as error:
        raise InvalidRequestError(f"input {quoted(spec.name)}: {error}") from None
    tensor = Tensor(name=spec.name, datatype=spec.datatype, shape=shape, data=data)
    return Asked(None, (tensor,), asked_outputs((), True, signature), 1, {})


def _raw_shape(spec: TensorSpec, size: int, signature: ModelSignature) -> tuple[int, ...]:
    shape = [1, *spec.shape[1:]] if signature.batched else list(spec.shape)
    if shape.count(-1) > 1:
        raise InvalidRequestError(f"input {quoted(spec.name)}: {HEADER_LENGTH} 0 leaves its shape unknown")
    if -1 in shape:
        known = datatypes.byte_size(spec.datatype, [length for length in shape if length != -1])
        assert known is not None
        shape[shape.index(-1)] = size // known
    return tuple(shape)


def _output(tensor: Tensor, **content: Any) -> InferOutput:
    return InferOutput(tensor.name, tensor.datatype, list(tensor.shape), **content)


def _json_elements(tensor: Tensor) -> list[Any]:
    try:
        elements = datatypes.encode_elements(tensor.datatype, tensor.data)
    except ValueError as error:
        raise InvalidRequestError(
            f"output {quoted(tensor.name)}: {error}; ask for it with 'binary_data': true"
        ) from None
    if len(elements) != math.prod(tensor.shape):
        raise ValueError(f"output {tensor.name} has {len(elements)} elements, not those of shape {tensor.shape}")
    return elements


def _short(number: int) -> str:
    return str(number) if abs(number) < 2**64 else "a number of more than 64 bits"
