"""The infer request and response of the Open Inference Protocol over gRPC.

Tensors come as bytes in `raw_input_contents`, or as numbers in each input's `contents`; they go back as bytes. What is
checked is what is checked over REST, in the same words: whatever a client sends, `decode` raises nothing but
`InvalidRequestError`, and compares declared sizes with the model before anything is allocated.

An image is a request with one input of datatype BYTES and shape [1], and the answer its most probable classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ranksmith.serve.frames import Tensor
from ranksmith.serve.messages import Prediction
from ranksmith.serve.oip import datatypes
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.oip.schema import RequestedOutput, RequestedOutputParameters
from ranksmith.serve.oip.signature import (
    Asked,
    InvalidRequestError,
    ModelSignature,
    TensorSpec,
    asked_outputs,
    given_tensors,
    quoted,
    row_count,
    shown_shape,
)

__all__ = ["class_tensors", "decode", "encode", "image_signature"]

_Input = pb.ModelInferRequest.InferInputTensor

# FP16 and BF16 have no typed contents.
_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool_contents",
        "UINT8": "uint_contents",
        "UINT16": "uint_contents",
        "UINT32": "uint_contents",
        "UINT64": "uint64_contents",
        "INT8": "int_contents",
        "INT16": "int_contents",
        "INT32": "int_contents",
        "INT64": "int64_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        "BYTES": "bytes_contents",
    }
)

_CLASS_OUTPUTS = (
    TensorSpec("label", "BYTES", (-1,)),
    TensorSpec("index", "INT64", (-1,)),
    TensorSpec("probability", "FP32", (-1,)),
)


def decode(request: pb.ModelInferRequest, signature: ModelSignature) -> Asked:
    """The request, checked against the model."""
    tensors = _tensors(request, signature)
    parameters = {name: _value(parameter) for name, parameter in request.parameters.items()}
    outputs = asked_outputs([_requested(output) for output in request.outputs], True, signature)
    return Asked(request.id or None, tensors, outputs, row_count(tensors, signature), parameters)


def encode(response: pb.ModelInferResponse, model: str, version: str, asked: Asked, tensors: Sequence[Tensor]) -> None:
    """Fill in the response to what was asked, from the tensors of its outputs in any order."""
    response.model_name = model
    response.model_version = version
    response.id = asked.id or ""
    given = {tensor.name: tensor for tensor in tensors}
    for wanted in asked.outputs:
        tensor = given[wanted.name]
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(bytes(tensor.data))


def image_signature(request: pb.ModelInferRequest) -> ModelSignature | None:
    """What to check the request against if it is an image rather than tensors, else None."""
    if len(request.inputs) != 1 or request.inputs[0].datatype != "BYTES" or list(request.inputs[0].shape) != [1]:
        return None
    image = TensorSpec(request.inputs[0].name, "BYTES", (1,))
    return ModelSignature(request.model_name, (image,), _CLASS_OUTPUTS, None)


def class_tensors(predictions: Sequence[Prediction]) -> tuple[Tensor, ...]:
    """The outputs of an image: label, index and probability of each class. Where labels are unknown, the index's
    digits stand in their place.
    """
    labels = [str(each.index) if each.label is None else each.label for each in predictions]
    data: tuple[bytes, ...] = (
        datatypes.join_elements(label.encode() for label in labels),
        np.array([each.index for each in predictions], "<i8").tobytes(),
        np.array([each.probability for each in predictions], "<f4").tobytes(),
    )
    shape = (len(predictions),)
    return tuple(Tensor(spec.name, spec.datatype, shape, part) for spec, part in zip(_CLASS_OUTPUTS, data, strict=True))


def _tensors(request: pb.ModelInferRequest, signature: ModelSignature) -> tuple[Tensor, ...]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs")
    parts = iter(raw)

    def read(given: _Input, shape: tuple[int, ...]) -> bytes | memoryview:
        if given.parameters and "shared_memory_region" in given.parameters:
            raise ValueError("shared memory is not offered")
        if not raw:
            return _typed(given, shape)
        if given.HasField("contents"):
            raise InvalidRequestError(f"input {quoted(given.name)} has both contents and raw_input_contents")
        data: bytes = next(parts)
        datatypes.check_data(given.datatype, shape, data)
        return data

    return given_tensors(request.inputs, signature, read)


def _typed(given: _Input, shape: tuple[int, ...]) -> bytes | memoryview:
    datatype = given.datatype
    field = _FIELDS.get(datatype)
    if field is None:
        raise ValueError(f"{datatype} has no typed contents; send it in raw_input_contents")
    if not given.HasField("contents"):
        raise ValueError("has neither contents nor raw_input_contents")
    values: Sequence[Any] = getattr(given.contents, field)
    count = math.prod(shape)
    if len(values) != count:
        raise ValueError(f"{field} has {len(values)} elements where shape {shown_shape(shape)} means {count}")
    if datatype == "BYTES":
        return datatypes.join_elements(values)
    dtype = datatypes.lookup(datatype).dtype
    assert dtype is not None
    try:
        return np.fromiter(values, dtype, count).view(np.uint8).data
    except OverflowError:
        limits = np.iinfo(dtype)
        wrong = next(value for value in values if not int(limits.min) <= value <= int(limits.max))
        raise ValueError(f"{wrong} is no {datatype}") from None


def _requested(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    parameters = RequestedOutputParameters(
        classification=1 if "classification" in output.parameters else None,
        shared_memory_region="" if "shared_memory_region" in output.parameters else None,
    )
    return RequestedOutput(output.name, parameters)


def _value(parameter: pb.InferParameter) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameter, choice)
