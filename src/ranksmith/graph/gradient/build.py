"""From a model to the model of its gradients.

With a seed u of the output's shape, the model made here gives ∂(Σ u·output)/∂v for each value v asked for. Nodes are
visited against their order; each passes the gradient of its outputs on to its inputs by the rule of its operator, and
what a value gets from several readers is added up.

A gradient is whole or absent: behind an operator without a rule nothing is reached, and neither is anything that
would have got a part of its gradient through it.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph.gradient.rules import find_rule
from ranksmith.graph.gradient.tape import Tape
from ranksmith.graph.gradient.upgrade import upgraded
from ranksmith.graph.nodes import reads
from ranksmith.graph.normalize import normalize

__all__ = ["SEED", "gradient_model", "gradient_name"]

SEED = "ranksmith_seed"
"""The input that takes the weights u of the output's elements."""


def gradient_name(value: str) -> str:
    """What the gradient with respect to `value` is called."""
    return f"ranksmith_gradient/{value}"


def gradient_model(model: ir.Model, values: Sequence[str], output: str) -> tuple[ir.Model, list[str]]:
    """The gradients of Σ seed·output with respect to `values`.

    Args:
        model: left as it is.
        values: names of inputs or of values that nodes of the main graph make; repeated ones count once.
        output: name of the value that is differentiated; usually an output of the model.

    Returns:
        A model with the inputs of `model` and `SEED` (type and shape of `output`), whose outputs are called
        `gradient_name(value)` and have the type and shape of `value`; and the values that it reaches, in the order
        of those outputs. A model of an opset before 13 is converted; one that cannot be reaches
        nothing but `output` itself.

    Raises:
        NodeNotFoundError: there is no such value.
        ModelError: the type of `output` cannot be inferred.
    """
    model = upgraded(model)
    normalize(model)
    graph = model.graph
    known = {value.name or "": value for value in graph.inputs}
    known |= {value.name or "": value for node in graph for value in node.outputs}
    for name in (*values, output):
        if name not in known:
            raise NodeNotFoundError(name, [name for name in known if name], what="value")
    if known[output].dtype is None:
        raise ModelError(f"the type of {output!r} cannot be inferred, so it has no gradient")
    wanted = [known[name] for name in dict.fromkeys(values)]

    nodes = list(graph)
    tape = Tape(model, _influenced(nodes, wanted))
    tape.add(known[output], tape.input(SEED, known[output].shape, known[output].type))
    incomplete = _backward(tape, nodes)

    graph.outputs.clear()
    reached = [value for value in wanted if value not in incomplete and tape.total(value) is not None]
    for value in reached:
        gradient = tape.gradient(value)
        # One gradient may serve several values (an Add passes it on as it is), but an output has one name.
        taken = gradient.is_graph_input() or gradient.is_graph_output()
        result = tape.op("Identity", gradient) if taken else gradient
        result.name = gradient_name(value.name or "")
        result.shape, result.type = value.shape, value.type
        graph.outputs.append(result)
    common.RemoveUnusedNodesPass()(model)
    return model, [value.name or "" for value in reached]


def _influenced(nodes: Sequence[ir.Node], wanted: Sequence[ir.Value]) -> set[ir.Value]:
    """The values through which `wanted` can reach an output; integers (shapes, indices) have no gradient."""
    found = set(wanted)
    for node in nodes:
        if any(value in found for value in reads(node)):
            found.update(value for value in node.outputs if value.dtype is None or value.dtype.is_floating_point())
    return found


def _backward(tape: Tape, nodes: Sequence[ir.Node]) -> set[ir.Value]:
    """Pass gradients from outputs to inputs; return the values whose gradient would lack a part."""
    incomplete: set[ir.Value] = set()
    for node in reversed(nodes):
        sources = [value for value in reads(node) if tape.wants(value)]
        if any(value in incomplete for value in node.outputs):
            incomplete.update(sources)
        if not sources or all(tape.total(value) is None for value in node.outputs):
            continue
        rule = find_rule(node, tape.opset)
        # Types that inference did not find are those behind somebody's own operators.
        typed = all(value.dtype is not None for value in (*sources, *node.outputs))
        parts = rule(tape, node) if rule is not None and typed else None
        if parts is None:
            incomplete.update(sources)
            continue
        for source, part in zip(node.inputs, parts, strict=False):
            if source is not None and part is not None and tape.wants(source):
                tape.add(source, part)
    return incomplete
