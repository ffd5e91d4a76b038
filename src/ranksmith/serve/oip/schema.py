"""What goes over REST in the Open Inference Protocol, as msgspec Structs.

Requests are read leniently, as real clients write them: unknown fields are ignored and an optional field may be null.
The elements of an input stay unparsed until its shape is known to fit the model.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ranksmith.serve.messages import Prediction, TensorInfo

__all__ = [
    "Dimension",
    "ErrorResponse",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InputParameters",
    "ModelMetadata",
    "ModelReady",
    "OutputParameters",
    "Parameter",
    "Predictions",
    "RequestedOutput",
    "RequestedOutputParameters",
    "ServerLive",
    "ServerMetadata",
    "ServerReady",
    "TensorData",
]

Dimension = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Parameter = bool | int | float | str | None
TensorData = Annotated[
    Raw,
    msgspec.Meta(
        description="The elements in row-major order, in one list or in lists nested as the shape says.",
        extra_json_schema={"type": ["array", "null"], "items": {"type": ["array", "number", "string", "boolean"]}},
    ),
]


class ServerLive(Struct, frozen=True):
    """The answer of `GET /v2/health/live`."""

    live: bool


class ServerReady(Struct, frozen=True):
    """The answer of `GET /v2/health/ready`."""

    ready: bool


class ModelReady(Struct, frozen=True):
    """The answer of `GET /v2/models/M/ready`."""

    name: str
    ready: bool


class ServerMetadata(Struct, frozen=True):
    """The answer of `GET /v2`."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(Struct, frozen=True):
    """The answer of `GET /v2/models/M`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class InputParameters(Struct, frozen=True):
    """The parameters of an input that the server understands."""

    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class InferInput(Struct, frozen=True):
    """An input of a request, with its elements in `data` or, as binary data, after the JSON."""

    name: str
    datatype: str
    shape: list[Dimension]
    parameters: InputParameters | None = None
    data: TensorData | UnsetType = UNSET


class RequestedOutputParameters(Struct, frozen=True):
    """The parameters of a requested output that the server understands."""

    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class RequestedOutput(Struct, frozen=True):
    """An output that a request asks for."""

    name: str
    parameters: RequestedOutputParameters | None = None


class InferRequest(Struct, frozen=True):
    """The JSON of `POST /v2/models/M/infer`."""

    inputs: list[InferInput]
    id: str | None = None
    parameters: dict[str, Parameter] | None = None
    outputs: list[RequestedOutput] | None = None


class OutputParameters(Struct, frozen=True):
    """The parameters of an output whose elements follow the JSON."""

    binary_data_size: int


class InferOutput(Struct, frozen=True):
    """An output of a response, with its elements in `data` or, as binary data, after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: OutputParameters | UnsetType = UNSET
    data: list[Any] | UnsetType = UNSET


class InferResponse(Struct, frozen=True):
    """The JSON of the answer to an infer request."""

    model_name: str
    model_version: str
    outputs: list[InferOutput]
    id: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET


class Predictions(Struct, frozen=True):
    """The answer of `POST /predict`: classes of an image, the most probable first."""

    model: str
    version: str
    predictions: list[Prediction]


class ErrorResponse(Struct, frozen=True):
    """The answer to a request that failed."""

    error: str
