"""Times of options that differ in nothing but the rank, from a few of them.

They lie on a line over the multiply-adds, ms ≈ α + β·macs: of 56 series of a ResNet-50 in float and in int8
(onnxruntime, an EPYC with AVX2) half stray from theirs by less than 2.2 %, as much as a median of nine rounds
does. So the weakest, the middle and the strongest are measured and the others are read off the line, which costs less
and halves the noise: the best of many noisy times is a lucky one. A step, as narrow layers have, shows where the middle
one is off the line through the ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["along_line", "to_measure"]

_MEASURED_WHOLE = 4
"""A series of so few is measured whole."""
_BEND = 0.08
"""Of the time on the line, how far off it the middle one is if there is a step; twice the noise of all three."""


def to_measure(count: int) -> list[int]:
    """Which of a series of `count` options to measure first, by their place in the order of their multiply-adds."""
    return list(range(count)) if count <= _MEASURED_WHOLE else [0, count // 2, count - 1]


def along_line(work: Sequence[float], measured: Sequence[float]) -> NDArray[np.float64] | None:
    """The times of a whole series, all of them read off the line; None where there is none.

    Args:
        work: multiply-adds of each option, increasing.
        measured: times of those that `to_measure` names, in any unit.
    """
    macs, times = np.asarray(work, np.float64), np.asarray(measured, np.float64)
    chosen = macs[to_measure(len(macs))]
    if len(macs) <= _MEASURED_WHOLE:
        return None
    expected = np.interp(chosen[1], chosen[[0, 2]], times[[0, 2]])
    if abs(times[1] / expected - 1.0) > _BEND:
        return None
    # Relative errors are what counts: the small times are as noisy, and as important, as the large ones.
    design = np.stack([np.ones(3), chosen], axis=1) / times[:, None]
    alpha, beta = np.linalg.lstsq(design, np.ones(3), rcond=None)[0]
    line: NDArray[np.float64] = alpha + beta * macs
    return line
