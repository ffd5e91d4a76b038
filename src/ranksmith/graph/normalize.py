"""Bring what users export into one form, in place, before anything else looks at the graph.

- model-local functions are inlined, so that the Convs in them are seen;
- initializers that are also graph inputs become constants (listing them silently disables onnxruntime's
  fast layout); true inputs stay;
- Constant nodes become initializers;
- nodes without a name, or with another node's name, get a stable one (that of their first output);
- nodes are brought into topological order;
- shapes and types are inferred. Symbolic dimensions stay symbolic, and what the model declares about its
  inputs and outputs stays as declared.

Inference never sees the weights, so it works on models over 2 GB; where it fails, shapes stay unknown.
"""

from __future__ import annotations

import re

import onnx_ir as ir
from onnx_ir.passes import common

from ranksmith.errors import ModelError
from ranksmith.graph.nodes import free_name, is_op, quiet_logger
from ranksmith.results import Change, PassReport

__all__ = ["normalize"]

_CONSTANT_INITIALIZERS_IR_VERSION = 4
"""Before this version every initializer had to be listed as an input."""

_GENERATED_SYMBOL = re.compile(r"unk__\d+")


def normalize(model: ir.Model) -> PassReport:
    """Normalize `model` in place; doing it again changes nothing.

    Raises:
        ModelError: the graph has a cycle.
    """
    changed = [
        *_inline_functions(model),
        *_promote_inputs(model),
        *_lift_constants(model),
        *_name_nodes(model),
    ]
    try:
        model.graph.sort()
    except ValueError as error:
        raise ModelError(f"the graph has a cycle: {error}", hint="the model is damaged; export it again") from error
    _infer_shapes(model)
    return PassReport(name="normalize", changed=changed)


def _inline_functions(model: ir.Model) -> list[Change]:
    if not model.functions:
        return []
    names = [function.name for function in model.functions.values()]
    common.InlinePass()(model)
    return [Change(node=name, what="function inlined") for name in names]


def _promote_inputs(model: ir.Model) -> list[Change]:
    graph = model.graph
    promoted = [value for value in graph.inputs if value.is_initializer()]
    for value in promoted:
        graph.inputs.remove(value)
    model.ir_version = max(model.ir_version, _CONSTANT_INITIALIZERS_IR_VERSION)
    return [Change(node=value.name or "", what="initializer no longer listed as an input") for value in promoted]


def _lift_constants(model: ir.Model) -> list[Change]:
    before = [node for node in model.graph.all_nodes() if is_op(node, "Constant")]
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lifted = [node for node in before if node.graph is None]
    what = "Constant made an initializer"
    return [Change(node=node.name or node.outputs[0].name or "", what=what) for node in lifted]


def _name_nodes(model: ir.Model) -> list[Change]:
    # Names that are kept are taken first, so that a made-up one never pushes a real one aside.
    nodes = list(model.graph.all_nodes())
    taken: set[str] = set()
    unnamed: list[ir.Node] = []
    for node in nodes:
        if not node.name or node.name in taken:
            unnamed.append(node)
        else:
            taken.add(node.name)
    changed = []
    for node in unnamed:
        output = next((value.name for value in node.outputs if value.name), node.op_type)
        why = f"had the name {node.name!r} of another node" if node.name else f"{node.op_type} had no name"
        node.name = free_name(output, taken)
        changed.append(Change(node=node.name, what=f"named: {why}"))
    return changed


def _infer_shapes(model: ir.Model) -> None:
    declared = [(value, value.shape, value.type) for value in (*model.graph.inputs, *model.graph.outputs)]
    initializers = dict(model.graph.initializers)
    # It logs a traceback where inference fails, which here is an expected case.
    with quiet_logger("onnx_ir.passes.common.shape_inference"):
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    # The pass takes large initializers out and puts them back at the end.
    model.graph.initializers.clear()
    model.graph.initializers.update(initializers)
    for value, shape, kind in declared:
        value.shape = shape if shape is not None else value.shape
        value.type = kind if kind is not None else value.type
    for node in model.graph.all_nodes():
        for value in node.outputs:
            _forget_generated_symbols(value)


def _forget_generated_symbols(value: ir.Value) -> None:
    """Inference invents names (`unk__3`) for dimensions it does not know: say nothing about those instead."""
    if value.shape is not None and any(_is_generated(dim) for dim in value.shape):
        value.shape = ir.Shape([None if _is_generated(dim) else dim for dim in value.shape])


def _is_generated(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value is not None and bool(_GENERATED_SYMBOL.fullmatch(dim.value))
