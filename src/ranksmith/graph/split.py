"""Cut a model in two at a value, so that what comes before runs once and what follows many times.

The suffix is what depends on the value and nothing else, the prefix all the rest, so a residual shortcut
round the cut is computed by the prefix and crosses beside the value. What depends on no input (the
arithmetic that exporters leave around Reshape and Pad) does not cross: each part has its own copy.
"""

from __future__ import annotations

import onnx_ir as ir

from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph.nodes import reads

__all__ = ["between", "bottlenecks", "split"]


def split(model: ir.Model, value_name: str) -> tuple[ir.Model, ir.Model, list[str]]:
    """(prefix, suffix, crossing): `model` cut at a value of its main graph. The model is left as it is.

    `crossing` names the suffix's inputs, `value_name` first. The prefix takes the model's inputs and gives
    those of them that it computes; one that is an input of the model is passed on by the caller. The suffix
    gives the model's outputs, in their order and under their names, also those that do not depend on the value.

    Raises:
        NodeNotFoundError: there is no such value.
        ModelError: the type of a crossing value cannot be inferred.
    """
    graph = model.graph
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    cut = _value(graph, value_name)
    suffix_nodes = _dependents(graph, [cut])
    varying = {*inputs, *(value for node in _dependents(graph, inputs) for value in node.outputs)}
    made_after = {value for node in suffix_nodes for value in node.outputs}
    needed = [value for node in graph if node in suffix_nodes for value in reads(node)]
    needed += list(graph.outputs)
    crossing = list(dict.fromkeys([cut, *(v for v in needed if v in varying and v not in made_after)]))
    for value in crossing:
        if value.type is None:
            raise ModelError(f"the type of {value.name!r} cannot be inferred, so the model cannot be cut there")
    given = [value for value in crossing if value not in inputs]
    # A part without outputs could not be run at all; passing the inputs on is the nothing it has to do.
    prefix = _part(model, inputs, given or crossing)
    suffix = _part(model, crossing, list(graph.outputs))
    return prefix, suffix, [value.name or "" for value in crossing]


def between(model: ir.Model, source: str, *targets: str) -> ir.Model:
    """The part of `model` that makes the values `targets` from the value `source`, on which alone they depend.

    Raises:
        NodeNotFoundError: there is no such value.
    """
    return _part(model, [_value(model.graph, source)], [_value(model.graph, target) for target in targets])


def bottlenecks(model: ir.Model) -> dict[str, str]:
    """For each node of the main graph, by name, the last value before it through which everything passes.

    What the node and all that follow it make is a function of that value alone; in a residual network it is the
    block's input. The graph's nodes must be sorted, and the model have one input.
    """
    graph = model.graph
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    varying = {*inputs, *(value for node in _dependents(graph, inputs) for value in node.outputs)}
    last_use = {value: index for index, node in enumerate(graph) for value in reads(node)}
    last_use |= dict.fromkeys(graph.outputs, len(graph))
    found: dict[str, str] = {}
    live, bottleneck = set(inputs), inputs[0]
    for index, node in enumerate(graph):
        found[node.name or ""] = bottleneck.name or ""
        live = {value for value in (*live, *node.outputs) if value in varying and last_use.get(value, -1) > index}
        if len(live) == 1:
            (bottleneck,) = live
    return found


def _value(graph: ir.Graph, name: str) -> ir.Value:
    values = [value for value in graph.inputs if not value.is_initializer()]
    values += [value for node in graph for value in node.outputs]
    found = {value.name or "": value for value in values}
    if name not in found:
        raise NodeNotFoundError(name, filter(None, found), what="value")
    return found[name]


def _dependents(graph: ir.Graph, values: list[ir.Value]) -> set[ir.Node]:
    """The nodes of the graph that read one of `values`, or what such a node makes."""
    known = set(values)
    nodes: set[ir.Node] = set()
    for node in graph:
        if not known.isdisjoint(reads(node)):
            nodes.add(node)
            known.update(node.outputs)
    return nodes


def _part(model: ir.Model, inputs: list[ir.Value], outputs: list[ir.Value]) -> ir.Model:
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    return ir.Model(
        graph,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        functions=[function.clone() for function in model.functions.values()],
    )
