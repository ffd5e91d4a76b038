"""The tensors of several requests as those of one frame, and back."""

from __future__ import annotations

from collections.abc import Sequence

from ranksmith.serve.frames.format import FrameError, Tensor

__all__ = ["stack", "unstack"]

Tensors = tuple[Tensor, ...]


def stack(requests: Sequence[Tensors]) -> Tensors:
    """One behind the other along the first dimension; the data are copied.

    Args:
        requests: the tensors of each; alike, with names, datatypes and shapes in common.
    """
    if len(requests) == 1:
        return requests[0]
    return tuple(
        Tensor(
            same[0].name,
            same[0].datatype,
            (len(same) * same[0].shape[0], *same[0].shape[1:]),
            b"".join([tensor.data for tensor in same]),
        )
        for same in zip(*requests, strict=True)
    )


def unstack(tensors: Tensors, count: int) -> list[Tensors]:
    """What `stack` made one of, `count` requests; the data are views.

    Raises:
        FrameError: a tensor is not so many of one shape.
    """
    if count == 1:
        return [tensors]
    return list(zip(*[_parts(tensor, count) for tensor in tensors], strict=True)) if tensors else [()] * count


def _parts(tensor: Tensor, count: int) -> list[Tensor]:
    name, datatype, shape, data = tensor
    if not shape or shape[0] % count or datatype == "BYTES":
        raise FrameError(f"tensor {name!r}: {datatype} {shape} is not that of {count} requests")
    view = memoryview(data).cast("B")
    one = (shape[0] // count, *shape[1:])
    size = view.nbytes // count
    return [Tensor(name, datatype, one, view[number * size : (number + 1) * size]) for number in range(count)]
