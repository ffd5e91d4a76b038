"""What a method gives at a given time, and whether two methods differ there. Pure: numbers in, numbers out.

A method's frontier is a set of measured models; the folded original (1x, all answers its own) belongs to all that
begin there.
At a target speed-up s, that is at 1/s of the original's time:

- `measured`: a model within the tolerance of s stands for the method;
- `interpolated`: else its neighbours in time do, linearly. With times t_a > 1/s > t_b (of the original's) every
  image's value is (1 − w)·v_a + w·v_b, w = (t_a − 1/s)/(t_a − t_b): what one would expect of a method that draws
  model b for a fraction w of the requests, so the interval over images is that of a mean;
- `faster`: a method that does not begin there (int8), whose slowest model needs less time; it stands as it is;
- `not reached`: no model of the method is as fast.

Neighbours are chosen by time alone, never by how good they are on the images that they are judged on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ranksmith.measure.bootstrap import mean_ci95
from ranksmith.results import Interval

__all__ = ["Mix", "agreement_ci95", "at_speedup", "blend", "difference", "parameter_at", "verdict"]

How = Literal["measured", "interpolated", "faster", "not reached"]


@dataclass(frozen=True)
class Mix:
    """Which of a method's models stand for it at a target, and how much of each.

    Attributes:
        parts: (index into the speed-ups that were given, weight); index None is the folded original.
        speedup: of the mix, the target unless `how` is `measured` or `faster`.
    """

    how: How
    parts: tuple[tuple[int | None, float], ...]
    speedup: float


def at_speedup(
    speedups: Sequence[float], target: float, *, tolerance: float = 0.015, from_original: bool = True
) -> Mix:
    """What stands for a method with models of these speed-ups at `target`.

    Args:
        tolerance: relative difference up to which a model counts as being at the target.
        from_original: the folded original is the mildest model of the method.
    """
    near = [index for index, speedup in enumerate(speedups) if abs(speedup / target - 1) <= tolerance]
    if near:
        best = min(near, key=lambda index: abs(speedups[index] - target))
        return Mix("measured", ((best, 1.0),), speedups[best])
    faster = [index for index, speedup in enumerate(speedups) if speedup > target]
    if not faster:
        return Mix("not reached", (), target)
    below = min(faster, key=lambda index: speedups[index])
    slower = [index for index, speedup in enumerate(speedups) if 1.0 < speedup < target]
    if not slower and not from_original:
        return Mix("faster", ((below, 1.0),), speedups[below])
    above = max(slower, key=lambda index: speedups[index]) if slower else None
    slow_time = 1.0 if above is None else 1 / speedups[above]
    weight = (slow_time - 1 / target) / (slow_time - 1 / speedups[below])
    return Mix("interpolated", ((above, 1 - weight), (below, weight)), target)


def parameter_at(parameters: Sequence[float], speedups: Sequence[float], target: float) -> float | None:
    """The parameter that should hit `target`: linear in time between the mildest two that have it between them.

    Args:
        parameters: larger is milder, 1 is the original.
        speedups: of the models made with them. They need not be monotone.

    Returns:
        None where no model is as fast.
    """
    points = sorted([(1.0, 1.0), *((p, 1 / s) for p, s in zip(parameters, speedups, strict=True))], reverse=True)
    for (mild, slow), (strong, fast) in pairwise(points):
        if slow > 1 / target >= fast:
            return mild + (strong - mild) * (slow - 1 / target) / (slow - fast)
    return None


def blend(mix: Mix, values: Sequence[NDArray[np.float64]], original: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each image's value of the mix, [n].

    Args:
        values: by model, each [n].
        original: of the folded original, [n].
    """
    total = np.zeros_like(original, np.float64)
    for index, weight in mix.parts:
        total += weight * (original if index is None else values[index])
    return total


def agreement_ci95(agreeing: NDArray[np.float64], seed: int) -> Interval:
    """The bootstrap interval of a mean agreement [n] in 0..1.

    Where no image disagrees resampling knows no spread; the low end is then the rule of three's, 1 − 3/n.
    """
    low, high = mean_ci95(agreeing, seed)
    if agreeing.min() == agreeing.max() == 1.0:
        low = max(0.0, 1 - 3 / agreeing.size)
    return low, high


def difference(ours: NDArray[np.float64], theirs: NDArray[np.float64], seed: int) -> tuple[float, Interval]:
    """Mean of ours − theirs over the same images [n], and its paired bootstrap interval."""
    paired = ours - theirs
    return float(paired.mean()), mean_ci95(paired, seed)


def verdict(ours: Interval, theirs: Interval, paired: Interval) -> str:
    """In words, for values of which more is better: do the intervals overlap, and what do the pairs say?"""
    if ours[0] > theirs[1]:
        return "ours is better, the intervals do not overlap"
    if ours[1] < theirs[0]:
        return "ours is worse, the intervals do not overlap"
    if paired[0] > 0:
        return "the intervals overlap; image by image ours is better"
    if paired[1] < 0:
        return "the intervals overlap; image by image ours is worse"
    return "the intervals overlap, too few images to tell"
