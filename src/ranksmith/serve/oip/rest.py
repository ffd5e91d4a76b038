"""The infer request and response of the Open Inference Protocol over REST, with the binary tensor data extension.

A body is JSON, or JSON followed by the binary data of its tensors in the order in which the JSON lists them; then the
header `Inference-Header-Content-Length` says where the JSON ends. A length of 0 means that the whole body is the data
of the model's only input, one row of it. Binary tensors stay views of the body. Whatever a client sends, `decode`
raises nothing but `InvalidRequestError`, and it compares every declared size with the model and with the bytes at hand
before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from ranksmith.serve.frames import Tensor
from ranksmith.serve.oip import datatypes
from ranksmith.serve.oip.schema import (
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    InputParameters,
    OutputParameters,
    RequestedOutput,
    RequestedOutputParameters,
)

__all__ = [
    "HEADER_LENGTH",
    "Asked",
    "AskedOutput",
    "InvalidRequestError",
    "ModelSignature",
    "TensorSpec",
    "asked_outputs",
    "check_shape",
    "decode",
    "encode",
    "parse_header_length",
    "quoted",
    "row_count",
    "shown_shape",
    "unknown_tensor",
]

HEADER_LENGTH = "Inference-Header-Content-Length"

_NULL = b"null"
_LONGEST_NAME = 64
_LONGEST_SHAPE = 16
_NO_INPUT_PARAMETERS = InputParameters()
_NO_OUTPUT_PARAMETERS = RequestedOutputParameters()
_REQUEST = msgspec.json.Decoder(InferRequest)
_RESPONSE = msgspec.json.Encoder()


class InvalidRequestError(Exception):
    """A request that cannot be answered; the message is one line that names the field."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model; a dimension that may vary is -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """What a model takes and gives."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int | None

    @property
    def batched(self) -> bool:
        """Whether the model has a batch dimension: the first of every input may vary."""
        return bool(self.inputs) and all(spec.shape[:1] == (-1,) for spec in self.inputs)


@dataclass(frozen=True, slots=True)
class AskedOutput:
    """An output to send, as binary data or as JSON; `classification` is how many top classes to send in its place."""

    name: str
    binary: bool
    classification: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that fits the model: its tensors in the signature's order, and what to send back."""

    id: str | None
    tensors: tuple[Tensor, ...]
    outputs: tuple[AskedOutput, ...]
    rows: int
    parameters: dict[str, Any]


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
    tensors = _tensors(request.inputs, view, header_length, signature)
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


def _tensors(
    inputs: Sequence[InferInput], view: memoryview, header_length: int | None, signature: ModelSignature
) -> tuple[Tensor, ...]:
    specs = {spec.name: spec for spec in signature.inputs}
    tensors: dict[str, Tensor] = {}
    start = len(view) if header_length is None else header_length
    for given in inputs:
        spec = specs.get(given.name)
        if spec is None:
            raise InvalidRequestError(unknown_tensor("input", given.name, signature.inputs, signature))
        if given.name in tensors:
            raise InvalidRequestError(f"input {quoted(given.name)} is given twice")
        check_shape(given, spec, signature)
        size = (given.parameters or _NO_INPUT_PARAMETERS).binary_data_size
        shape = tuple(given.shape)
        data = _json_data(given) if size is None else _binary_data(given, size, view[start:], header_length is None)
        tensors[given.name] = Tensor(name=spec.name, datatype=spec.datatype, shape=shape, data=data)
        start += size or 0
    for name in specs:
        if name not in tensors:
            raise InvalidRequestError(f"input {quoted(name)} is missing")
    if start != len(view):
        raise InvalidRequestError(f"{len(view) - start} bytes of the body belong to no input")
    return tuple(tensors[name] for name in specs)


def check_shape(given: InferInput, spec: TensorSpec, signature: ModelSignature) -> None:
    name = quoted(spec.name)
    if given.datatype != spec.datatype:
        raise InvalidRequestError(f"input {name} has datatype {spec.datatype}, not {quoted(given.datatype)}")
    shown = shown_shape(given.shape)
    if len(given.shape) != len(spec.shape):
        raise InvalidRequestError(f"input {name} has {len(spec.shape)} dimensions, but shape {shown} was sent")
    if min(given.shape, default=1) < 1:
        raise InvalidRequestError(f"input {name}: every dimension of shape {shown} must be at least 1")
    if any(fixed not in (-1, sent) for fixed, sent in zip(spec.shape, given.shape, strict=True)):
        raise InvalidRequestError(f"input {name} has shape {shown_shape(spec.shape)}, but {shown} was sent")
    if signature.max_batch is not None and signature.batched and given.shape[0] > signature.max_batch:
        raise InvalidRequestError(f"input {name} has {given.shape[0]} rows; at most {signature.max_batch} are taken")


def _binary_data(given: InferInput, size: int, rest: memoryview, no_header: bool) -> memoryview:
    name = quoted(given.name)
    if _elements(given) is not None:
        raise InvalidRequestError(f"input {name} has both 'data' and 'binary_data_size'; send one of them")
    expected = datatypes.byte_size(given.datatype, given.shape)
    if size < 0 or (expected is not None and size != expected):
        wanted = (
            "a length" if expected is None else f"{expected} for shape {shown_shape(given.shape)} of {given.datatype}"
        )
        raise InvalidRequestError(f"input {name}: binary_data_size is {_short(size)}, not {wanted}")
    if size > len(rest):
        hint = f"; is the header {HEADER_LENGTH} missing?" if no_header else ""
        raise InvalidRequestError(
            f"input {name}: binary_data_size is {_short(size)}, but {len(rest)} bytes of the body are left{hint}"
        )
    data = rest[:size]
    try:
        datatypes.check_data(given.datatype, given.shape, data)
    except ValueError as error:
        raise InvalidRequestError(f"input {name}: {error}") from None
    return data


def _json_data(given: InferInput) -> memoryview:
    name = quoted(given.name)
    if given.parameters is not None and given.parameters.shared_memory_region is not None:
        raise InvalidRequestError(f"input {name}: shared memory is not offered")
    elements = _elements(given)
    if elements is None:
        raise InvalidRequestError(f"input {name} has neither 'data' nor the parameter 'binary_data_size'")
    try:
        return datatypes.decode_elements(given.datatype, given.shape, elements)
    except ValueError as error:
        raise InvalidRequestError(f"input {name}: data: {error}") from None


def _elements(given: InferInput) -> Raw | None:
    """As they were sent; None where there are none, or null."""
    if given.data is UNSET or bytes(memoryview(given.data)[: len(_NULL) + 1]) == _NULL:
        return None
    return given.data


def asked_outputs(
    wanted: Iterable[RequestedOutput], binary: bool, signature: ModelSignature
) -> tuple[AskedOutput, ...]:
    specs = {spec.name: spec for spec in signature.outputs}
    asked: dict[str, AskedOutput] = {}
    for output in wanted:
        if output.name not in specs:
            raise InvalidRequestError(unknown_tensor("output", output.name, signature.outputs, signature))
        if output.name in asked:
            raise InvalidRequestError(f"output {quoted(output.name)} is asked for twice")
        asked[output.name] = _asked_output(output, binary)
    if not asked:
        asked = {name: AskedOutput(name, binary) for name in specs}
    for name, output_asked in asked.items():
        datatype = specs[name].datatype
        if not output_asked.binary and datatypes.lookup(datatype).json_type is None:
            raise InvalidRequestError(
                f"output {quoted(name)} is {datatype}, which has no JSON form; ask for it with 'binary_data': true"
            )
    return tuple(asked.values())


def _asked_output(output: RequestedOutput, binary: bool) -> AskedOutput:
    parameters = output.parameters or _NO_OUTPUT_PARAMETERS
    if parameters.classification:
        raise InvalidRequestError(f"output {quoted(output.name)}: 'classification' is not offered; ask for the tensor")
    if parameters.shared_memory_region is not None:
        raise InvalidRequestError(f"output {quoted(output.name)}: shared memory is not offered")
    return AskedOutput(output.name, binary if parameters.binary_data is None else parameters.binary_data)


def row_count(tensors: Sequence[Tensor], signature: ModelSignature) -> int:
    if not signature.batched:
        return 1
    rows = tensors[0].shape[0]
    for tensor in tensors:
        if tensor.shape[0] != rows:
            raise InvalidRequestError(
                f"input {quoted(tensor.name)} has {tensor.shape[0]} rows where "
                f"input {quoted(tensors[0].name)} has {rows}"
            )
    return rows


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
    check_shape(InferInput(spec.name, spec.datatype, list(shape)), spec, signature)
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


def unknown_tensor(role: str, name: str, known: Sequence[TensorSpec], signature: ModelSignature) -> str:
    names = ", ".join(repr(spec.name) for spec in known)
    return f"{role} {quoted(name)} is unknown; model {signature.name!r} has {names}"


def quoted(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…")


def shown_shape(shape: Sequence[int]) -> str:
    more = ", …" if len(shape) > _LONGEST_SHAPE else ""
    return f"[{', '.join(map(str, shape[:_LONGEST_SHAPE]))}{more}]"


def _short(number: int) -> str:
    return str(number) if abs(number) < 2**64 else "a number of more than 64 bits"
