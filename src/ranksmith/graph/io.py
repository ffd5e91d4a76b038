"""Reading and writing models.

`load` takes nothing for granted: whatever is wrong with a file is told in one line. Nothing in the file is
ever executed. `save` is atomic and its bytes depend on the model only; above protobuf's limit the weights go
to `<name>.data` beside the model.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnx.version_converter
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from ranksmith.errors import ModelError
from ranksmith.files import atomic_file, check_output
from ranksmith.graph.checks import check_model
from ranksmith.graph.external import (
    check_external_data,
    external_files,
    external_tensors,
    lies_in,
    load_into_memory,
    put_back,
    write_tensor,
)
from ranksmith.graph.nodes import quiet_logger

__all__ = ["EXTERNAL_THRESHOLD_BYTES", "from_bytes", "load", "save", "sha256", "to_bytes"]

EXTERNAL_THRESHOLD_BYTES = 1_900_000_000
"""Above this many bytes of tensors, weights are saved as external data (protobuf ends at 2**31 − 1)."""

_PROTOBUF_LIMIT_BYTES = 2**31 - 1
_OLDEST_OPSET = 7

_NOT_ONNX_HINT = "give the .onnx file itself, as an exporter wrote it"
_TRUNCATED_HINT = "download or export it again"


def load(path: Path) -> ir.Model:
    """Read and check a model. Weights are memory-mapped where they are external data.

    A model older than opset 7 is upgraded to it; any other keeps its opset.

    Raises:
        ModelError: not an ONNX file, truncated, without nodes, or otherwise not usable.
        ExternalDataError: external data that is missing, too short, or outside the model's directory.
    """
    path = Path(path)
    proto = _upgraded(_parse(path), path)
    try:
        # It warns of what `check_model` refuses.
        with quiet_logger("onnx_ir.serde"):
            model = ir.serde.deserialize_model(proto)
    except ir.serde.SerdeError as error:
        raise ModelError(f"{path}: damaged: {_root_cause(error)}", hint=_TRUNCATED_HINT) from error
    ir.external_data.set_base_dir(model.graph, path.parent)
    check_external_data(model, path)
    check_model(model, path)
    return model


def save(
    model: ir.Model,
    path: Path,
    *,
    overwrite: bool = False,
    external_threshold_bytes: int = EXTERNAL_THRESHOLD_BYTES,
) -> None:
    """Write a model atomically.

    Up to `external_threshold_bytes` of tensors the file is self-contained, whatever the source was; above
    it, weights go to `<name>.data` beside it, moved in before the model is. The model in memory stays usable.

    Raises:
        OutputError: `path` (or its `.data`) exists and `overwrite` is false, or it cannot be written.
        ModelError: the model cannot be serialized.
    """
    path = Path(path)
    if _tensor_bytes(model) > external_threshold_bytes:
        _save_external(model, path, overwrite=overwrite)
        return
    check_output(path, overwrite=overwrite)
    content = to_bytes(model)
    with atomic_file(path, overwrite=overwrite) as partial:
        partial.write_bytes(content)


def to_bytes(model: ir.Model) -> bytes:
    """The model as one self-contained ONNX file, in memory.

    Raises:
        ModelError: it is over protobuf's 2 GB.
    """
    if _tensor_bytes(model) > _PROTOBUF_LIMIT_BYTES:
        raise ModelError("the model is over 2 GB, too large for one protobuf", hint="save it with external data")
    if next(external_tensors(model), None) is not None:
        model = model.clone()
        load_into_memory(model)
    return _serialize(model)


def from_bytes(content: bytes) -> ir.Model:
    """The model that `to_bytes` serialized, or that was made in memory otherwise."""
    return ir.serde.deserialize_model(onnx.load_model_from_string(content))


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a model file and, in the order the model names them, its external data files.

    Raises:
        ModelError, ExternalDataError: as `load`.
    """
    path = Path(path)
    digest = hashlib.sha256()
    for file in [path, *external_files(load(path))]:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _parse(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        raise ModelError(f"{path} is a directory, not an ONNX file", hint=_NOT_ONNX_HINT)
    if not path.is_file():
        raise ModelError(f"{path}: no such file", hint="check the path")
    if path.stat().st_size > _PROTOBUF_LIMIT_BYTES:
        raise ModelError(f"{path} is over 2 GB, more than one ONNX file can hold", hint=_NOT_ONNX_HINT)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        if _is_cut_off(content):
            raise ModelError(f"{path} is truncated", hint=_TRUNCATED_HINT) from error
        raise ModelError(f"{path} is not an ONNX model", hint=_NOT_ONNX_HINT) from error
    if not proto.HasField("graph"):
        raise ModelError(f"{path} is not an ONNX model", hint=_NOT_ONNX_HINT)
    if not proto.opset_import:
        raise ModelError(f"{path} says no opset: it is truncated or was not written by an exporter")
    if not proto.graph.node:
        raise ModelError(f"{path} has no nodes in its graph, so there is nothing to do")
    if proto.graph.sparse_initializer:
        raise ModelError(f"{path} has sparse initializers, which are not supported", hint="export it with dense ones")
    return proto


def _is_cut_off(content: bytes) -> bool:
    """Whether the bytes begin as a ModelProto but end inside one of its fields."""
    known = onnx.ModelProto.DESCRIPTOR.fields_by_number
    position = 0

    def varint() -> int:
        nonlocal position
        number = shift = 0
        while True:
            byte = content[position]
            position += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift > 63:
                return number

    try:
        while position < len(content):
            tag = varint()
            if tag >> 3 not in known or tag & 7 not in (0, 2):
                return False
            length = varint()
            if tag & 7 == 2:
                position += length
    except IndexError:
        return True
    return position > len(content)


def _upgraded(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model at opset 7 where it is older, which onnxruntime itself does not promise to run."""
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), _OLDEST_OPSET)
    if opset >= _OLDEST_OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, _OLDEST_OPSET)
    except (onnx.version_converter.ConvertError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path} has opset {opset} and cannot be upgraded to {_OLDEST_OPSET}: {str(error).splitlines()[0]}",
            hint="export it again with a newer opset",
        ) from error


def _root_cause(error: BaseException) -> str:
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return (str(error).splitlines() or [type(error).__name__])[0]


def _tensor_bytes(model: ir.Model) -> int:
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def _serialize(model: ir.Model) -> bytes:
    try:
        content: bytes = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
        return content
    except (EncodeError, ValueError, ir.serde.SerdeError) as error:
        raise ModelError(f"the model cannot be serialized: {_root_cause(error)}") from error


def _save_external(model: ir.Model, path: Path, *, overwrite: bool) -> None:
    data_path = path.with_name(path.name + ".data")
    written = model.clone()
    load_into_memory(written, initializers=False)
    moved: list[tuple[ir.Value, ir.ExternalTensor]] = []
    # The contexts end innermost first: the data is in place before the model that names it.
    with (
        put_back(data_path) as set_aside,
        atomic_file(path, overwrite=overwrite) as partial,
        atomic_file(data_path, overwrite=overwrite) as data_partial,
    ):
        with data_partial.open("wb") as stream:
            for graph, original in zip(written.graphs(), model.graphs(), strict=True):
                for name, value in graph.initializers.items():
                    if (external := write_tensor(value, stream, data_path)) is None:
                        continue
                    if lies_in(value.const_value, data_path):
                        moved.append((original.initializers[name], external))
                    value.const_value = external
        partial.write_bytes(_serialize(written))
        set_aside()
    for value, external in moved:
        value.const_value = external
