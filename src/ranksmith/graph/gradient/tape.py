"""The graph of a gradient while it grows: new nodes, the gradients gathered so far, shapes that fit again.

Broadcasting repeats a value, so the gradient of what was repeated is a sum over the repetitions:
`unbroadcast` adds up the axes along which the operator stretched an input. Where shapes are not known before the
run, the axes of length 1 are found in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.graph.nodes import free_name, opset_of, taken_names

__all__ = ["Parts", "Rule", "Tape"]

Parts: TypeAlias = "Sequence[ir.Value | None] | None"
"""What each input of a node gets, None for nothing (fewer than there are: the others get nothing); None on the
whole where the gradient is not known."""

Rule: TypeAlias = "Callable[[Tape, ir.Node], Parts]"

_SHARED_ELEMENTS = 64


class Tape:
    """Appends nodes to the graph of `model`; remembers the gradient of each value.

    Args:
        model: is changed in place.
        wanted: the values whose gradients are of use; those of others are not kept.
    """

    def __init__(self, model: ir.Model, wanted: set[ir.Value]) -> None:
        self.opset = opset_of(model)
        self._graph = model.graph
        self._wanted = wanted
        self._taken = taken_names(model.graph)
        self._gradients: dict[ir.Value, ir.Value] = {}
        self._shapes: dict[ir.Value, ir.Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes] | None, ir.Value] = {}

    def wants(self, value: ir.Value) -> bool:
        return value in self._wanted

    def total(self, value: ir.Value) -> ir.Value | None:
        """The gradient with respect to `value` as far as it is known, None where nothing has come."""
        return self._gradients.get(value)

    def gradient(self, value: ir.Value) -> ir.Value:
        """The gradient with respect to `value`, zeros where nothing has come."""
        total = self.total(value)
        return self.op("Mul", value, self.scalar(0, value)) if total is None else total

    def add(self, value: ir.Value, part: ir.Value) -> None:
        """Add `part` to the gradient with respect to `value`."""
        before = self._gradients.get(value)
        self._gradients[value] = part if before is None else self.op("Add", before, part)

    def input(self, name: str, shape: ir.Shape | None, kind: ir.TypeProtocol | None) -> ir.Value:
        """A new input of the model."""
        value = ir.Value(name=name, shape=shape, type=kind)
        self._graph.inputs.append(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> ir.Value:
        """Append a node; its first output."""
        node = ir.node(op_type, inputs, attributes, num_outputs=outputs)
        node.name = free_name(f"ranksmith_gradient_{op_type}", self._taken)
        for index, value in enumerate(node.outputs):
            value.name = free_name(node.name if index == 0 else f"{node.name}_{index}", self._taken)
        self._graph.append(node)
        return node.outputs[0]

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """`array` as an initializer; small ones that are equal are one."""
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= _SHARED_ELEMENTS else None
        if key in self._constants:
            return self._constants[key]
        name = free_name("ranksmith_gradient_constant", self._taken)
        tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        if key is not None:
            self._constants[key] = value
        return value

    def scalar(self, number: float, like: ir.Value) -> ir.Value:
        """A constant of the type of `like`."""
        assert like.dtype is not None
        return self.constant(np.asarray(number, like.dtype.numpy()))

    def ints(self, *numbers: int) -> ir.Value:
        """A constant int64 vector."""
        return self.constant(np.asarray(numbers, np.int64))

    def shape(self, value: ir.Value) -> ir.Value:
        """The shape of `value`, at run time."""
        if value not in self._shapes:
            self._shapes[value] = self.op("Shape", value)
        return self._shapes[value]

    def reshape(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """`value` in the shape of `like`."""
        return self.op("Reshape", value, self.shape(like))

    def flat_zeros(self, like: ir.Value) -> ir.Value:
        """A vector of zeros, as many as `like` has elements and of its type."""
        assert like.dtype is not None
        size = self.op("Reshape", self.op("Size", like), self.ints(1))
        return self.op("ConstantOfShape", size, value=ir.tensor(np.zeros(1, like.dtype.numpy())))

    def masked(self, gradient: ir.Value, condition: ir.Value, like: ir.Value) -> ir.Value:
        """`gradient` where the bool `condition` holds, else 0; `like` has the gradient's type."""
        return self.op("Mul", gradient, self.op("Cast", condition, to=like.dtype))

    def sum(self, value: ir.Value, axes: Sequence[int], *, keepdims: bool) -> ir.Value:
        """The sum of `value` over `axes`."""
        return self.op("ReduceSum", value, self.ints(*axes), keepdims=int(keepdims))

    def unbroadcast(self, gradient: ir.Value, made: ir.Value, given: ir.Value) -> ir.Value | None:
        """The gradient of `given` from that of `made`, whose shape it was broadcast to.

        None where it cannot be told (the number of axes is unknown).
        """
        if made.shape is None or given.shape is None:
            return None
        missing = len(made.shape) - len(given.shape)
        pairs = list(zip(made.shape.dims[missing:], given.shape.dims, strict=True))
        leading = tuple(range(missing))
        if all(_surely_equal(to, of) or of == 1 for to, of in pairs):
            stretched = [missing + axis for axis, (to, of) in enumerate(pairs) if not _surely_equal(to, of)]
            if stretched:
                gradient = self.sum(gradient, stretched, keepdims=True)
            return self.sum(gradient, leading, keepdims=False) if missing else gradient
        if missing:
            gradient = self.sum(gradient, leading, keepdims=False)
        single = self.op("Equal", self.shape(given), self.ints(1))
        axes = self.op("Reshape", self.op("NonZero", single), self.ints(-1))
        return self.op("ReduceSum", gradient, axes, keepdims=1, noop_with_empty_axes=1)


def _surely_equal(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return a == b
    return a.value is not None and a.value == b.value
