"""Repair a decomposed model without training: fit the last factor of every chain again, in the order of the graph.

Each chain is fitted (`lowrank.refit`) to what it reads in the model as it has been repaired so far, and to what the
original model has behind the shortcut that is added to it, and before the ReLU that follows. So a layer makes good
some of what the layers before it lost, shapes and speed stay as they are, and only unlabelled images are needed.

Both models are run once, in stretches from chain to chain: between two stretches the values that later nodes read are
kept, for all images. The original waits before the Conv of the next chain, the repaired model before its last factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.data.loader import Batch
from ranksmith.errors import DataError
from ranksmith.graph.io import to_bytes
from ranksmith.graph.nodes import is_op, reads, set_weight, static_dims, taken_names
from ranksmith.graph.query import conv_context, conv_layer
from ranksmith.lowrank.refit import Refit
from ranksmith.progress import Progress
from ranksmith.results import Change
from ranksmith.runtime.session import open_session

__all__ = ["repair"]

Array = NDArray[Any]


def repair(
    folded: ir.Model,
    model: ir.Model,
    nodes: Sequence[str],
    batches: Iterable[Batch],
    *,
    threads: int,
    progress: Progress,
) -> list[Change]:
    """Fit the last factors of `model` again, in place. The same arguments give the same weights.

    Args:
        folded: the model that `model` was decomposed from; left as it is.
        nodes: the Convs of `folded` that were replaced, in any order. One that was not is fitted itself.
        batches: calibration images, about 100; what both models hold between two stretches is held for all of them.

    Returns:
        What was changed; a chain is left alone where nothing lowers its error on images it is not fitted to.

    Raises:
        NodeNotFoundError: `nodes` names a Conv that `folded` does not have.
        DataError: there are no images.
        ModelError: a model cannot be run.
    """
    source = folded.graph.inputs[0].name or ""
    images = [batch.images for batch in batches]
    if not images:
        raise DataError("there are no images to repair the model with")
    places = {node.name: index for index, node in enumerate(folded.graph)}
    outputs = {node: conv_context(folded, node).output_value for node in nodes}
    order = sorted(outputs, key=places.__getitem__)
    ends = [*(places[node] for node in order[1:]), None]
    original = _Walk(folded, [{source: each} for each in images], threads)
    repaired = _Walk(model, [{source: each} for each in images], threads)
    changes = []
    with progress.stage("Repairing", len(order)) as advance:
        for node, end in zip(order, ends, strict=True):
            if change := _refit(original, repaired, node, outputs[node], end):
                changes.append(change)
            advance(1)
    return changes


def _refit(original: _Walk, repaired: _Walk, node: str, output: str, end: int | None) -> Change | None:
    """Fit what makes `output` in the repaired model; the original goes on to the place `end`."""
    shortcut, relu = _landing(original.model, output)
    last = _maker(repaired.model, output)
    layer = conv_layer(repaired.model, last.name or "")
    source = last.inputs[0]
    assert source is not None
    added = [] if shortcut is None else [shortcut]
    refit = Refit(layer)
    wanted = original.values([output, *added], end)
    present = repaired.values([source.name or "", *added], list(repaired.model.graph).index(last))
    for (made, *theirs), (z, *ours) in zip(wanted, present, strict=True):
        target = made + theirs[0] if theirs else made
        refit.update(z, target, ours[0] if ours else None, relu=relu)
    solved = refit.solve()
    if solved is None:
        return None
    better, ratio = solved
    weight = last.inputs[1]
    assert weight is not None
    assert weight.dtype is not None
    assert better.bias is not None
    taken = taken_names(repaired.model.graph)
    set_weight(last, 1, better.weight, weight.dtype, f"{last.name}/weight", taken)
    set_weight(last, 2, better.bias, weight.dtype, f"{last.name}/bias", taken)
    return Change(node=node, what=f"fitted again, squared error on images left out {ratio - 1:+.1%}")


def _landing(model: ir.Model, output: str) -> tuple[str | None, bool]:
    """What is added to the value `output`, if nothing else happens to it before, and whether a ReLU follows."""
    value = _value(model, output)
    shortcut = None
    follower = _only_reader(value)
    if follower is not None and is_op(follower, "Add"):
        other = next((each for each in follower.inputs if each is not value), None)
        shape, other_shape = static_dims(value), static_dims(other)
        same = shape is not None and other_shape is not None and shape[1:] == other_shape[1:]
        if other is None or other.const_value is not None or not same:
            return None, False
        shortcut = other.name
        follower = _only_reader(follower.outputs[0])
    return shortcut, follower is not None and is_op(follower, "Relu")


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = {user for user, _ in value.uses()}
    return readers.pop() if len(readers) == 1 and not value.is_graph_output() else None


def _maker(model: ir.Model, output: str) -> ir.Node:
    node = _value(model, output).producer()
    assert node is not None
    return node


def _value(model: ir.Model, name: str) -> ir.Value:
    return next(value for node in model.graph for value in node.outputs if value.name == name)


@dataclass(eq=False)
class _Walk:
    """A model on its way through all images.

    Attributes:
        here: by batch, the values that the rest of the model reads, by name.
    """

    model: ir.Model
    here: list[dict[str, Array]]
    threads: int

    def values(self, names: Sequence[str], place: int | None) -> Iterator[list[Array]]:
        """Some values, batch by batch, on the way to before the node at `place`; None: stay here."""
        graph = self.model.graph
        given = list(self.here[0])
        kept = given if place is None else _live(graph, place)
        wanted = [name for name in dict.fromkeys([*names, *kept]) if name not in given]
        session = None
        if wanted:
            found = {value.name: value for node in graph for value in (*reads(node), *node.outputs)}
            part = ir.convenience.extract(graph, [found[name] for name in given], [found[name] for name in wanted])
            session = open_session(to_bytes(_model_of(part, self.model)), threads=self.threads)
        for index, values in enumerate(self.here):
            if session is not None:
                values = values | dict(zip(wanted, session.run(values, wanted), strict=True))
            # At once, so that no more than one batch is held twice.
            self.here[index] = {name: values[name] for name in kept}
            yield [values[name] for name in names]


def _live(graph: ir.Graph, place: int) -> list[str]:
    """What the nodes from `place` on read of what depends on the images and is there before them."""
    known = {value for value in graph.inputs if not value.is_initializer()}
    live: dict[str, None] = {}
    for index, node in enumerate(graph):
        if index < place:
            if not known.isdisjoint(reads(node)):
                known.update(node.outputs)
        else:
            live |= dict.fromkeys(value.name or "" for value in reads(node) if value in known)
    return list(live)


def _model_of(part: ir.Graph, model: ir.Model) -> ir.Model:
    functions = [function.clone() for function in model.functions.values()]
    return ir.Model(part, ir_version=model.ir_version, functions=functions)
