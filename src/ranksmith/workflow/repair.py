"""Repair a decomposed model without training: fit the last factor of every chain again, in the order of the graph.

Each chain is fitted (`lowrank.refit`) to what it reads in the model as it has been repaired so far, and to what the
original model has behind the shortcut that is added to it, and before the ReLU that follows. So a layer makes good
some of what the layers before it lost, shapes and speed stay as they are, and only unlabelled images are needed.

Both models are run from bottleneck to bottleneck (`graph.split.bottlenecks`): the activations of all images at one
place are kept, at most once for each model, and no part is run more often than there are chains in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.data.loader import Batch
from ranksmith.errors import DataError
from ranksmith.graph.io import to_bytes
from ranksmith.graph.nodes import is_op, set_weight, static_dims, taken_names
from ranksmith.graph.query import conv_context, conv_layer
from ranksmith.graph.split import between, bottlenecks
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
        batches: calibration images, about 100; all activations at one place of both models are held at once.

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
    original = _Walk(folded, source, images, threads)
    repaired = _Walk(model, source, list(images), threads)
    starts = bottlenecks(folded)
    places = {name: index for index, name in enumerate(starts)}
    outputs = {node: conv_context(folded, node).output_value for node in nodes}
    changes = []
    with progress.stage("Repairing", len(outputs)) as advance:
        for node in sorted(outputs, key=places.__getitem__):
            for walk in (original, repaired):
                walk.go_to(starts[node])
            if change := _refit(original, repaired, node, outputs[node]):
                changes.append(change)
            advance(1)
    return changes


def _refit(original: _Walk, repaired: _Walk, node: str, output: str) -> Change | None:
    shortcut, relu = _landing(original.model, output)
    last = _maker(repaired.model, output)
    layer = conv_layer(repaired.model, last.name or "")
    source = last.inputs[0]
    assert source is not None
    added = [] if shortcut is None else [shortcut]
    refit = Refit(layer)
    pairs = zip(original.values([output, *added]), repaired.values([source.name or "", *added]), strict=True)
    for (made, *theirs), (z, *ours) in pairs:
        target = made + theirs[0] if theirs else made
        refit.update(z, target, ours[0] if ours else None, relu=relu)
    found = refit.solve()
    if found is None:
        return None
    better, ratio = found
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
    """A model, and its activations for all images at one value that everything passes through."""

    model: ir.Model
    place: str
    activations: list[Array]
    threads: int

    def go_to(self, place: str) -> None:
        """Move on to a later such value."""
        if place != self.place:
            # In place, so that no more than one batch is held twice.
            for index, (value,) in enumerate(self.values([place])):
                self.activations[index] = value
            self.place = place

    def values(self, names: Sequence[str]) -> Iterable[list[Array]]:
        """Values that follow from the present place, batch by batch."""
        wanted = [name for name in dict.fromkeys(names) if name != self.place]
        session = None
        if wanted:
            session = open_session(to_bytes(between(self.model, self.place, *wanted)), threads=self.threads)
        for here in self.activations:
            made = {self.place: here}
            if session is not None:
                made |= dict(zip(wanted, session.run({self.place: here}, wanted), strict=True))
            yield [made[name] for name in names]
