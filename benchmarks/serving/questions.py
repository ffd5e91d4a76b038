"""What all servers are asked, and whether an answer is right: random inputs, and onnxruntime's own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

__all__ = ["Judge", "Questions", "answers_of", "ask_in_process"]

Floats = NDArray[np.float32]

COUNT = 16
SEED = 0
# Of the largest logit: float32 sums in another order differ by 1e-6 of it, int8 models by more than this.
TOLERANCE = 1e-3
_KNOWN_BODIES = 64


@dataclass(frozen=True)
class Questions:
    """
    Attributes:
        inputs: one row each, of values with four decimals, so that they are short as JSON.
        expected: per input, the answers that are right; several where several models take turns.
    """

    input_name: str
    output_name: str
    inputs: list[Floats]
    expected: list[tuple[Floats, ...]]

    @property
    def input_bytes(self) -> int:
        return self.inputs[0].nbytes


def ask_in_process(*models: Path, count: int = COUNT) -> Questions:
    """Random inputs, and what every one of `models` answers.

    Raises:
        ValueError: two of the inputs have answers too much alike for a mix-up to be noticed.
    """
    sessions = [ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]) for model in models]
    entry, exit_ = sessions[0].get_inputs()[0], sessions[0].get_outputs()[0]
    shape = [1, *entry.shape[1:]]
    rng = np.random.default_rng(SEED)
    inputs = [np.round(rng.standard_normal(shape), 4).astype(np.float32) for _ in range(count)]
    expected = [tuple(answers_of(session, entry.name, array) for session in sessions) for array in inputs]
    for first in range(count):
        for second in range(first):
            if _is_close(expected[first][0], expected[second][0]):
                raise ValueError(f"{models[0]}: inputs {second} and {first} have the same answer")
    return Questions(entry.name, exit_.name, inputs, expected)


def answers_of(session: Any, name: str, array: Floats) -> Floats:
    found: Floats = session.run(None, {name: array})[0].ravel()
    return found


def _is_close(got: Floats, expected: Floats) -> bool:
    # A NaN is close to nothing.
    return got.shape == expected.shape and bool(np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max())


class Judge:
    """Holds every answer against what is right.

    Args:
        decode: an answer's body as the output's values.
    """

    def __init__(self, expected: Sequence[tuple[Floats, ...]], decode: Callable[[bytes], Floats]) -> None:
        self._expected, self._decode = expected, decode
        # A body that was found right once need not be decoded again; there are about as many as batch sizes.
        self._known: list[set[bytes]] = [set() for _ in expected]

    def is_right(self, question: int, body: bytes) -> bool:
        known = self._known[question]
        if body in known:
            return True
        try:
            got = self._decode(body)
        except (ValueError, KeyError, IndexError, TypeError):
            return False
        right = any(_is_close(got, each) for each in self._expected[question])
        if right and len(known) < _KNOWN_BODIES:
            known.add(body)
        return right
