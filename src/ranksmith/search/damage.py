"""From a layer's error to the damage it does to the model's answer.

Decomposing one layer alone moves the model's answer by some divergence d (KL, in nats). Small errors ε act to first
order, so d ∝ ε²; larger ones saturate or run away, so two or three measured points (ε, d) are joined by straight
lines in log-log and continued with slope 2 on both sides. Damages of several layers add up, which is what the
allocation assumes; how wrong that is shows when the whole plan is judged.

Where nothing was measured, d = s·ε² with the same s for all layers: the plain relative layer error, which ranks
plans almost as well (on ResNet-50 within the noise of 300 images) and costs no forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["DamageCurve"]

_SLOPE = 2.0
_LEAST = 1e-9
"""Nats below which a divergence of float32 answers is rounding."""


@dataclass(frozen=True)
class DamageCurve:
    """Damage against error for one layer.

    Attributes:
        points: measured (relative layer error, nats), any number; none: `default` nats at error 1.
        default: s, used without points.
    """

    points: Sequence[tuple[float, float]] = ()
    default: float = 0.1

    def __call__(self, error: float) -> float:
        """Estimated nats at a relative layer error."""
        if error <= 0:
            return 0.0
        known = sorted((e, max(d, _LEAST)) for e, d in self.points if e > 0)
        if not known:
            return self.default * error**2
        x, (errors, damages) = np.log(error), np.log(np.array(known)).T
        # More error never does less damage: noise in the measured points must not say so.
        damages = np.maximum.accumulate(damages)
        if x <= errors[0]:
            return float(np.exp(damages[0] + _SLOPE * (x - errors[0])))
        if x >= errors[-1]:
            return float(np.exp(damages[-1] + _SLOPE * (x - errors[-1])))
        return float(np.exp(np.interp(x, errors, damages)))

    @property
    def sensitivity(self) -> float | None:
        """Nats per unit of squared error, the geometric mean over the measured points; None without any."""
        known = [np.log(max(d, _LEAST)) - _SLOPE * np.log(e) for e, d in self.points if e > 0]
        return float(np.exp(np.mean(known))) if known else None
