"""`compare`: how far two models' outputs differ on the same inputs, streaming over batches.

With d = b − a over all elements of an output: max |d|, mean |d|, max |d| / max |a|, ‖d‖₂ / ‖a‖₂. Sums are
float64. Outputs are matched by name; where no name is shared, by place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.errors import DataError, ModelError
from ranksmith.measure.accuracy import as_logits, class_output, kl
from ranksmith.results import Comparison, OutputDifference
from ranksmith.runtime.session import Feeds, Session

__all__ = ["compare"]


def compare(
    a: Session, b: Session, feeds: Iterable[Feeds], *, names: tuple[str, str] | None = None, data: str = "random inputs"
) -> Comparison:
    """Run both models on `feeds` (keyed by A's input names) and compare.

    Args:
        names: what to call the models; by default what the sessions call them.
        data: what the feeds are, for the record.

    Raises:
        ModelError: the models do not take the same inputs or do not give comparable outputs.
        DataError: there are no feeds.
    """
    inputs = _matched("input", a, b)
    outputs = _matched("output", a, b)
    classes = _class_output(a, outputs)
    differences = {name: _Difference() for name in outputs}
    images = agreeing = 0
    divergence = 0.0
    for feed in feeds:
        answers_a = a.run(feed, list(outputs))
        answers_b = b.run({inputs[name]: value for name, value in feed.items()}, list(outputs.values()))
        for name, from_a, from_b in zip(outputs, answers_a, answers_b, strict=True):
            differences[name].add(from_a, from_b, f"{b.name}: output {outputs[name]!r}")
            if name == classes:
                logits_a, logits_b = as_logits(from_a, a.name), as_logits(from_b, b.name)
                agreeing += int((logits_a.argmax(axis=1) == logits_b.argmax(axis=1)).sum())
                divergence += kl(logits_a, logits_b) * len(logits_a)
        images += len(next(iter(feed.values())))
    if images == 0:
        raise DataError(f"{data}: nothing to compare {a.name} and {b.name} on")
    return Comparison(
        a=names[0] if names else a.name,
        b=names[1] if names else b.name,
        images=images,
        outputs=[difference.result(name) for name, difference in differences.items()],
        agreement=agreeing / images if classes else None,
        kl=divergence / images if classes else None,
        data=data,
    )


def _matched(what: str, a: Session, b: Session) -> dict[str, str]:
    """A's names to B's names of what both have."""
    values_a, values_b = (a.inputs, b.inputs) if what == "input" else (a.outputs, b.outputs)
    names_a, names_b = [value.name for value in values_a], [value.name for value in values_b]
    if what == "output" and (shared := [name for name in names_a if name in names_b]):
        return {name: name for name in shared}
    if set(names_a) == set(names_b):
        return {name: name for name in names_a}
    if len(names_a) != len(names_b):
        raise ModelError(f"{a.name} has {what}s {', '.join(names_a)}; {b.name} has {', '.join(names_b)}")
    return dict(zip(names_a, names_b, strict=True))


def _class_output(session: Session, outputs: dict[str, str]) -> str | None:
    try:
        name = class_output(session)
    except ModelError:
        return None
    return name if name in outputs else None


class _Difference:
    """Running sums for one output."""

    def __init__(self) -> None:
        self.max_abs = self.sum_abs = self.largest = self.sum_squares = self.sum_squares_a = 0.0
        self.elements = 0

    def add(self, a: NDArray[Any], b: NDArray[Any], what: str) -> None:
        if a.shape != b.shape:
            raise ModelError(f"{what} has shape {list(b.shape)}, not {list(a.shape)}")
        reference = a.astype(np.float64)
        difference = np.abs(b.astype(np.float64) - reference)
        # np.maximum keeps a NaN, which max() could lose.
        self.max_abs = float(np.maximum(self.max_abs, difference.max(initial=0.0)))
        self.largest = float(np.maximum(self.largest, np.abs(reference).max(initial=0.0)))
        self.sum_abs += float(difference.sum())
        self.sum_squares += float(np.square(difference).sum())
        self.sum_squares_a += float(np.square(reference).sum())
        self.elements += difference.size

    def result(self, name: str) -> OutputDifference:
        return OutputDifference(
            output=name,
            max_abs=self.max_abs,
            mean_abs=self.sum_abs / max(self.elements, 1),
            max_relative=_ratio(self.max_abs, self.largest),
            relative_l2=_ratio(self.sum_squares, self.sum_squares_a) ** 0.5,
        )


def _ratio(difference: float, reference: float) -> float:
    if difference == 0:
        return 0.0
    return difference / reference if reference else float("inf")
