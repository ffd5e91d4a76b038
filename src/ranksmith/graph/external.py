"""External data: tensors that live in a file beside the model.

A model is somebody else's file, so what it points at is checked before anything is read: the file must lie
inside the model's directory (not absolute, no `..`, no symlink or hard link out of it), be there, and be
long enough for every tensor's shape. After that, tensors are memory-mapped lazily, bounded by the file.
Writing the data file of a model is here too; `io.save` puts the pair in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import onnx_ir as ir

from ranksmith.errors import ExternalDataError

__all__ = [
    "check_external_data",
    "external_files",
    "external_tensors",
    "lies_in",
    "load_into_memory",
    "put_back",
    "write_tensor",
]

_SMALL_TENSOR_BYTES = 1024
_ALIGNMENT_BYTES = 64


def check_external_data(model: ir.Model, path: Path) -> None:
    """Check every external tensor of the model at `path`.

    Raises:
        ExternalDataError: a file is missing, too short, or outside the model's directory.
    """
    for function in model.functions.values():
        for node in function.all_nodes():
            if any(isinstance(tensor, ir.ExternalTensor) for tensor in _attribute_tensors(node)):
                raise ExternalDataError(f"{path}: function {function.name} holds external data, which is not supported")
    for tensor in external_tensors(model):
        _check_length(tensor, _contained_file(tensor, path), path)


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Every external tensor: of initializers and of attributes, subgraphs included."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
    for node in model.graph.all_nodes():
        for tensor in _attribute_tensors(node):
            if isinstance(tensor, ir.ExternalTensor):
                yield tensor


def external_files(model: ir.Model) -> list[Path]:
    """The files that hold the model's external data, in the order in which the model first names them."""
    return list(dict.fromkeys(Path(tensor.path) for tensor in external_tensors(model)))


def load_into_memory(model: ir.Model, *, initializers: bool = True) -> None:
    """Replace external tensors by tensors in memory, in place (of a clone: tensors are shared, values are not)."""
    if initializers:
        ir.external_data.load_to_model(model)
    for node in model.graph.all_nodes():
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                tensor = attribute.value
                copy = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
                node.attributes[name] = ir.AttrTensor(name, copy)


def write_tensor(value: ir.Value, stream: BinaryIO, data_path: Path) -> ir.ExternalTensor | None:
    """Append a large tensor to the data file; None for one that stays in the model."""
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes < _SMALL_TENSOR_BYTES:
        return None
    offset = -(-stream.tell() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    stream.write(bytes(offset - stream.tell()))
    if isinstance(tensor, ir.ExternalTensor):
        tensor.tofile(stream)
    else:
        stream.write(tensor.tobytes())
    return ir.ExternalTensor(
        data_path.name,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name or "",
        base_dir=data_path.parent,
    )


def lies_in(tensor: ir.TensorProtocol | None, file: Path) -> bool:
    return isinstance(tensor, ir.ExternalTensor) and file.exists() and file.samefile(tensor.path)


@contextmanager
def put_back(file: Path) -> Iterator[Callable[[], None]]:
    """Yield a function to call just before `file` is replaced; if anything fails, `file` is as it was."""
    aside = file.with_name(f".{file.name}.{os.getpid()}.old")
    replacing = False

    def set_aside() -> None:
        nonlocal replacing
        replacing = True
        if file.exists():
            file.replace(aside)

    try:
        yield set_aside
    except BaseException:
        if aside.exists():
            aside.replace(file)
        elif replacing:
            file.unlink(missing_ok=True)
        raise
    finally:
        aside.unlink(missing_ok=True)


def _attribute_tensors(node: ir.Node) -> Iterator[object]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.value
        elif attribute.type == ir.AttributeType.TENSORS and attribute.value is not None:
            yield from attribute.value


def _contained_file(tensor: ir.ExternalTensor, path: Path) -> Path:
    location = os.fspath(tensor.location)
    outside = ExternalDataError(
        f"{path}: the data of {tensor.name!r} is in {location!r}, outside the model's directory",
        hint="only data inside the model's directory is read: move it there and save the model anew",
    )
    if not location or PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute():
        raise outside
    base = path.parent.resolve()
    # normpath first: `a/../../b` must not pass just because the file is absent.
    if not Path(os.path.normpath(base / location)).is_relative_to(base):
        raise outside
    target = (base / location).resolve()
    if not target.is_relative_to(base):
        raise outside
    if not target.is_file():
        raise ExternalDataError(
            f"{path}: its external data {location!r} is missing",
            hint=f"put it at {path.parent / location}, where the model was saved with it",
        )
    if target.stat().st_nlink > 1:
        raise ExternalDataError(
            f"{path}: its external data {location!r} has several hard links, so it may be a file from elsewhere",
            hint="replace it by a copy of its own",
        )
    return target


def _check_length(tensor: ir.ExternalTensor, file: Path, path: Path) -> None:
    offset = tensor.offset or 0
    length = tensor.nbytes if tensor.length is None else tensor.length
    size = file.stat().st_size
    if length != tensor.nbytes:
        raise ExternalDataError(
            f"{path}: {tensor.name!r} has {length} bytes of external data, but its shape needs {tensor.nbytes}"
        )
    if offset < 0 or offset + length > size:
        raise ExternalDataError(
            f"{path}: its external data {file.name!r} is too short: {tensor.name!r} ends at byte {offset + length}, "
            f"the file at {size}",
            hint="the file is truncated or belongs to another model",
        )
