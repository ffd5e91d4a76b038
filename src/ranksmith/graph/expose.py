"""Make intermediate values outputs of the graph, beside those it has."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ranksmith.errors import ModelError, NodeNotFoundError, UsageError
from ranksmith.graph.nodes import dtype_name
from ranksmith.graph.normalize import normalize
from ranksmith.results import Change, PassReport, Skip

__all__ = ["expose"]


def expose(model: ir.Model, names: Sequence[str]) -> PassReport:
    """Normalize `model` and append the values called `names` to its outputs, in place, with type and shape.

    Raises:
        NodeNotFoundError: no node of the main graph makes such a value; the hint lists the nearest.
        UsageError: the name is a node's, not a value's.
        ModelError: the value's type cannot be inferred.
    """
    normalize(model)
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs if value.name}
    given = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    changed, skipped = [], []
    for name in dict.fromkeys(names):
        if name in given:
            skipped.append(Skip(node=name, why="it is an input or a constant, known without running the model"))
            continue
        value = values.get(name)
        if value is None:
            raise _not_found(model, name, [known for known in values if known])
        if value.is_graph_output():
            skipped.append(Skip(node=name, why="it is an output already"))
            continue
        if value.type is None:
            raise ModelError(f"the type of {name!r} cannot be inferred, so it cannot be an output")
        graph.outputs.append(value)
        shape = "of unknown shape" if value.shape is None else str(value.shape)
        changed.append(Change(node=name, what=f"made an output, {dtype_name(value.dtype)} {shape}"))
    return PassReport(name="expose", changed=changed, skipped=skipped)


def _not_found(model: ir.Model, name: str, known: list[str]) -> UsageError:
    node = next((node for node in model.graph if node.name == name), None)
    if node is None:
        return NodeNotFoundError(name, known, what="value")
    made = ", ".join(value.name for value in node.outputs if value.name)
    return UsageError(f"{name!r} is a node, not a value", hint=f"the values it makes: {made}")
