"""How probable it is, from few images, that a plan's true drop is within budget.

On n images a plan loses some that the original had right (n₊), gains some that it had wrong (n₋) and leaves the rest
(n₀). The true drop is p₊ − p₋. The observed one alone would let noise choose: of many plans the luckiest looks best,
and one percentage point of 150 images is an image and a half. So the flips' share q = p₊ + p₋ and the lost share of
them t = p₊/q get independent posteriors, and

    P(drop ≤ δ) = P(q·(2t − 1) ≤ δ) = E_t [ P(q·(2t − 1) ≤ δ) ],

an average of one Beta distribution function over quantiles of the other: exact, paired (agreeing images, which say
nothing about t, enter through q) and without random numbers.

**Flips, with the divergence as covariate.** q ~ Beta(n₊ + n₋ + k, n₀ + w − k) with a prior worth w images of which k
flip. That prior comes from the divergence KL of the two models' answers, which every image informs, flipped or
not, so that its noise is small: small perturbations of the logits grow like √KL, and so does the share of images
whose best class they overturn, q̂ = a·√KL. (On ResNet-50, 300 images, low-rank plans of KL .008 to .078: a = .16 to
.33, mean .22.) How many images lie close to a boundary differs between models, so a ~ Gamma(8 + F, 8/.22 + n·√KL')
is learnt from the F flips that another, stronger plan made at divergence KL' on the same images; and because
the law is rough the prior is worth at most 16 flips, k = 1/(1/(8 + F) + 1/16), w = k/q̂.

**What share of flips is lost.** t ~ Beta(n₊ + 26, n₋ + 14): with the weight of forty flips, what decomposed
classifiers do. Of the flips of a ResNet-20 on 2,500 images 0.60 to 0.72 were losses, from 45 flips to 167; of the
flips of eleven ResNet-50 plans on 300 images 0.65, of a bolder one 0.86. Without it the plan that happens to gain
more than it loses on a few hundred images looks like an improvement.

Without labels an image can only disagree: the drop is q.

**Agreement.** That at most a share of the answers changes, whether or not they were right, is judged in the same way:
the images that disagree stand in for the flips.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincinv

__all__ = ["Budget", "Evidence", "boldest", "expected_kl", "flip_prior", "probability_within"]

_LOST_PRIOR, _GAINED_PRIOR = 26.0, 14.0
_RATE, _RATE_FLIPS = 0.22, 8.0
_LAW_FLIPS = 16.0
_LEAST_SHARE = 1e-4
"""Flips expected where the answers do not differ at all: the model may be another file, but no image is certain."""
_QUANTILES = (np.arange(2048) + 0.5) / 2048


@dataclass(frozen=True)
class Evidence:
    """What a plan did on the images it was judged on.

    Attributes:
        lost, gained: images that only the original, only the plan's model has right (without labels: lost counts
            disagreements).
        images: how many there were.
        kl: mean divergence of the answers, in nats.
        changed: images of which the two models' best classes differ.
    """

    lost: int
    gained: int
    images: int
    kl: float
    changed: int = 0

    @classmethod
    def of(cls, losses: ArrayLike, kl: float, changed: int = 0) -> Evidence:
        """From the losses per image: 1, 0 or −1."""
        values = np.asarray(losses)
        return cls(int(np.sum(values > 0)), int(np.sum(values < 0)), values.size, kl, changed)

    @property
    def flips(self) -> int:
        return self.lost + self.gained

    def nearer(self, share: float) -> Evidence:
        """What is to be expected at this share, 0 to 1, of the divergence: flips go with its root, as in the prior."""
        root = np.sqrt(share)
        lost, gained, changed = (round(root * count) for count in (self.lost, self.gained, self.changed))
        return replace(self, lost=lost, gained=gained, changed=changed, kl=share * self.kl)

    @property
    def of_changes(self) -> Evidence:
        """The same without the labels: every changed answer is lost."""
        return replace(self, lost=self.changed, gained=0)


@dataclass(frozen=True)
class Budget:
    """What a plan may lose.

    Attributes:
        max_drop_pp: percentage points of top-1, not negative (without labels: of agreement).
        min_agreement: the least share of answers, 0 to 1, that stay the original's; without labels `max_drop_pp` says
            it.
        labelled: whether the images have labels.
    """

    max_drop_pp: float
    min_agreement: float = 0.0
    labelled: bool = True

    def probability(self, evidence: Evidence, other: Evidence | None = None) -> float:
        """That a plan is truly within it: of the drop and of the agreement, which go together, the less probable.

        Args:
            other: as for `flip_prior`.
        """
        within = probability_within(evidence, self.max_drop_pp, labelled=self.labelled, other=other)
        if not self.labelled or self.min_agreement <= 0:
            return within
        agrees = probability_within(
            evidence.of_changes,
            100.0 * (1.0 - self.min_agreement),
            labelled=False,
            other=other.of_changes if other else None,
        )
        return min(within, agrees)


def boldest(known: Iterable[Evidence]) -> Evidence | None:
    """The one whose flips say most about how readily a model's answers flip; None of none."""
    return max(known, key=lambda evidence: evidence.flips, default=None)


def flip_prior(kl: float, other: Evidence | None = None) -> tuple[float, float]:
    """(k, w): how many flips among how many images the divergence alone is worth.

    Args:
        other: another plan on the same images, from which the rate of flips is learnt.
    """
    flips, exposure = _RATE_FLIPS, _RATE_FLIPS / _RATE
    if other is not None:
        flips += other.flips
        exposure += other.images * np.sqrt(max(other.kl, 0.0))
    share = float(np.clip(flips / exposure * np.sqrt(max(kl, 0.0)), _LEAST_SHARE, 0.5))
    weight = 1.0 / (1.0 / flips + 1.0 / _LAW_FLIPS)
    return weight, weight / share


def probability_within(
    evidence: Evidence, max_drop_pp: float, *, labelled: bool = True, other: Evidence | None = None
) -> float:
    """Posterior probability that the true drop is at most `max_drop_pp` percentage points.

    Args:
        max_drop_pp: not negative.
        labelled: False where lost images are disagreements.
        other: as for `flip_prior`.
    """
    expected, worth = flip_prior(evidence.kl, other)
    flipped = evidence.flips + expected
    same = evidence.images - evidence.flips + worth - expected
    budget = max_drop_pp / 100.0
    if not labelled:
        return float(betainc(flipped, same, np.clip(budget, 0.0, 1.0)))
    tilt = 2.0 * betaincinv(evidence.lost + _LOST_PRIOR, evidence.gained + _GAINED_PRIOR, _QUANTILES) - 1.0
    # With as many gained as lost, or more, any number of flips is within a budget that is not negative.
    limit = np.divide(budget, tilt, out=np.ones_like(tilt), where=tilt > 0)
    return float(np.mean(betainc(flipped, same, np.clip(limit, 0.0, 1.0))))


def expected_kl(max_drop_pp: float) -> float:
    """The divergence, in nats, of a plan that is expected to lose `max_drop_pp`, before anything was judged."""
    lost = _LOST_PRIOR / (_LOST_PRIOR + _GAINED_PRIOR)
    return float((max_drop_pp / 100.0 / (2.0 * lost - 1.0) / _RATE) ** 2)
