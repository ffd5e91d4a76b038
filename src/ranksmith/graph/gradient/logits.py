"""Where a classifier has its logits: at its output, or before the Softmax that ends it."""

from __future__ import annotations

import onnx_ir as ir

from ranksmith.errors import NodeNotFoundError
from ranksmith.graph.nodes import is_op

__all__ = ["logits_of"]

_TRANSPARENT = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout")


def logits_of(model: ir.Model, output: str) -> str:
    """The name of the value that `output` is the Softmax of, else `output` itself.

    Raises:
        NodeNotFoundError: no node makes such a value.
    """
    made = {value.name or "": value for node in model.graph for value in node.outputs}
    if output not in made:
        raise NodeNotFoundError(output, list(made), what="value")
    producer = made[output].producer()
    while producer is not None and producer.inputs:
        source = producer.inputs[0]
        if source is not None and source.name and is_op(producer, "Softmax"):
            return source.name
        producer = None if source is None or not is_op(producer, *_TRANSPARENT) else source.producer()
    return output
