"""What a model takes and gives, and the check of a request against it: the same over REST and over gRPC.

Declared shapes are compared with the model's before anything of their size is allocated, and what does not fit is an
`InvalidRequestError` of one line. The words for it are only looked for once it is known to be wrong: requests that fit
are what this is fast for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

from ranksmith.serve.frames import Tensor
from ranksmith.serve.oip import datatypes
from ranksmith.serve.oip.schema import RequestedOutput, RequestedOutputParameters

__all__ = [
    "Asked",
    "AskedOutput",
    "GivenInput",
    "InvalidRequestError",
    "ModelSignature",
    "TensorSpec",
    "asked_outputs",
    "check_shape",
    "given_tensors",
    "quoted",
    "row_count",
    "shown_shape",
]

_LONGEST_NAME = 64
_LONGEST_SHAPE = 16
_NO_OUTPUT_PARAMETERS = RequestedOutputParameters()


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


@dataclass(frozen=True)
class ModelSignature:
    """What a model takes and gives."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int | None

    @cached_property
    def batched(self) -> bool:
        """Whether the model has a batch dimension: the first of every input may vary."""
        return bool(self.inputs) and all(spec.shape[:1] == (-1,) for spec in self.inputs)

    @cached_property
    def input_specs(self) -> Mapping[str, TensorSpec]:
        """The inputs by name."""
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def output_specs(self) -> Mapping[str, TensorSpec]:
        """The outputs by name."""
        return {spec.name: spec for spec in self.outputs}

    @cached_property
    def all_outputs(self) -> tuple[AskedOutput, ...]:
        """What is sent where a request names no outputs and wants binary data."""
        return tuple(AskedOutput(spec.name, True) for spec in self.outputs)


@dataclass(frozen=True, slots=True)
class AskedOutput:
    """An output to send, as binary data or as JSON; `classification` is how many top classes to send in its place."""

    name: str
    binary: bool
    classification: int = 0


class Asked(NamedTuple):
    """A request that fits the model.

    Attributes:
        tensors: in the signature's order.
        outputs: what to send back.
        like: in common with requests that differ from it in their tensors' data only; None: nothing is known of others.
    """

    id: str | None
    tensors: tuple[Tensor, ...]
    outputs: tuple[AskedOutput, ...]
    rows: int
    parameters: dict[str, Any]
    like: object | None = None


class GivenInput(Protocol):
    """An input as a request declares it."""

    @property
    def name(self) -> str: ...

    @property
    def datatype(self) -> str: ...

    @property
    def shape(self) -> Iterable[int]: ...


GivenT = TypeVar("GivenT", bound=GivenInput)


def given_tensors(
    inputs: Collection[GivenT],
    signature: ModelSignature,
    read: Callable[[GivenT, tuple[int, ...]], bytes | memoryview],
) -> tuple[Tensor, ...]:
    """The tensors of a request, in the signature's order.

    Args:
        read: the data of an input whose datatype and shape fit the model, called in the order of `inputs`; a
            `ValueError` says what is wrong with it.
    """
    specs = signature.input_specs
    tensors: dict[str, Tensor] = {}
    for given in inputs:
        name = given.name
        spec = specs.get(name)
        if spec is None:
            raise InvalidRequestError(_unknown("input", name, signature.inputs, signature))
        if name in tensors:
            raise InvalidRequestError(f"input {quoted(name)} is given twice")
        shape = tuple(given.shape)
        check_shape(spec, given.datatype, shape, signature)
        try:
            data = read(given, shape)
        except ValueError as error:
            raise InvalidRequestError(f"input {quoted(name)}: {error}") from None
        tensors[name] = Tensor(name, spec.datatype, shape, data)
    if len(tensors) != len(specs):
        missing = next(name for name in specs if name not in tensors)
        raise InvalidRequestError(f"input {quoted(missing)} is missing")
    return tuple(tensors.values()) if len(tensors) == 1 else tuple(tensors[name] for name in specs)


def check_shape(spec: TensorSpec, datatype: str, shape: tuple[int, ...], signature: ModelSignature) -> None:
    """Refuse an input that the model does not take, whatever its data."""
    if datatype != spec.datatype:
        raise InvalidRequestError(f"input {quoted(spec.name)} has datatype {spec.datatype}, not {quoted(datatype)}")
    if len(shape) != len(spec.shape):
        raise InvalidRequestError(
            f"input {quoted(spec.name)} has {len(spec.shape)} dimensions, but shape {shown_shape(shape)} was sent"
        )
    if shape and min(shape) < 1:
        raise InvalidRequestError(
            f"input {quoted(spec.name)}: every dimension of shape {shown_shape(shape)} must be at least 1"
        )
    for fixed, sent in zip(spec.shape, shape, strict=True):
        if sent != fixed and fixed != -1:
            raise InvalidRequestError(
                f"input {quoted(spec.name)} has shape {shown_shape(spec.shape)}, but {shown_shape(shape)} was sent"
            )
    if signature.max_batch is not None and signature.batched and shape[0] > signature.max_batch:
        raise InvalidRequestError(
            f"input {quoted(spec.name)} has {shape[0]} rows; at most {signature.max_batch} are taken"
        )


def row_count(tensors: Sequence[Tensor], signature: ModelSignature) -> int:
    """How many rows a request has; all of its inputs must have the same."""
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


def asked_outputs(
    wanted: Collection[RequestedOutput], binary: bool, signature: ModelSignature
) -> tuple[AskedOutput, ...]:
    """The outputs to send, in the order asked for; all where none is asked for.

    Args:
        binary: how to send those that do not say it.
    """
    if not wanted and binary:
        return signature.all_outputs
    specs = signature.output_specs
    asked: dict[str, AskedOutput] = {}
    for output in wanted:
        if output.name not in specs:
            raise InvalidRequestError(_unknown("output", output.name, signature.outputs, signature))
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


def quoted(name: str) -> str:
    """A client's text as it may stand in a message: on one line, and not long."""
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…")


def shown_shape(shape: Sequence[int]) -> str:
    """A shape as it may stand in a message."""
    more = ", …" if len(shape) > _LONGEST_SHAPE else ""
    return f"[{', '.join(map(str, shape[:_LONGEST_SHAPE]))}{more}]"


def _asked_output(output: RequestedOutput, binary: bool) -> AskedOutput:
    parameters = output.parameters or _NO_OUTPUT_PARAMETERS
    if parameters.classification:
        raise InvalidRequestError(f"output {quoted(output.name)}: 'classification' is not offered; ask for the tensor")
    if parameters.shared_memory_region is not None:
        raise InvalidRequestError(f"output {quoted(output.name)}: shared memory is not offered")
    return AskedOutput(output.name, binary if parameters.binary_data is None else parameters.binary_data)


def _unknown(role: str, name: str, known: Sequence[TensorSpec], signature: ModelSignature) -> str:
    names = ", ".join(repr(spec.name) for spec in known)
    return f"{role} {quoted(name)} is unknown; model {signature.name!r} has {names}"
