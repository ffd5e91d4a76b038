from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.search.evidence import Budget, Evidence, expected_kl, flip_prior, probability_within

COUNTS = st.integers(0, 20)
KLS = st.floats(0, 0.5)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    lost, gained = draw(COUNTS), draw(COUNTS)
    return Evidence(lost, gained, lost + gained + draw(st.integers(1, 300)), draw(KLS))


@pytest.mark.parametrize(
    ("evidence", "budget"),
    [
        (Evidence(4, 2, 499, 0.01), 1.0),
        (Evidence(0, 0, 60, 0.002), 1.0),
        (Evidence(9, 3, 200, 0.05), 2.5),
        (Evidence(3, 9, 50, 0.1), 0.0),
    ],
)
def test_probability_is_the_posteriors(evidence: Evidence, budget: float) -> None:
    rng = np.random.default_rng(0)
    flips, images = flip_prior(evidence.kl)
    flipped = rng.beta(evidence.flips + flips, evidence.images - evidence.flips + images - flips, 200_000)
    share = rng.beta(evidence.lost + 26, evidence.gained + 14, 200_000)
    expected = float(np.mean(flipped * (2 * share - 1) <= budget / 100))
    assert probability_within(evidence, budget) == pytest.approx(expected, abs=5e-3)


@given(evidences(), st.floats(0, 5))
@settings(deadline=None, max_examples=60)
def test_probability_moves_with_the_evidence(evidence: Evidence, budget: float) -> None:
    within = probability_within(evidence, budget)
    assert 0 <= within <= 1
    another_lost = replace(evidence, lost=evidence.lost + 1, images=evidence.images + 1)
    assert probability_within(another_lost, budget) <= within + 1e-9
    one_turned = replace(evidence, lost=evidence.lost + 1, gained=max(evidence.gained - 1, 0))
    assert probability_within(one_turned, budget) <= within + 1e-9
    assert probability_within(replace(evidence, images=evidence.images + 1), budget) >= within - 1e-9
    assert probability_within(evidence, budget + 1) >= within - 1e-9


@given(evidences(), st.floats(0, 5), st.booleans())
@settings(deadline=None, max_examples=60)
def test_answers_further_apart_are_expected_to_flip_more(evidence: Evidence, budget: float, labelled: bool) -> None:
    apart = [replace(evidence, kl=kl) for kl in (0.0, 1e-4, 1e-2, 0.3)]
    shares = [flips / images for flips, images in (flip_prior(entry.kl) for entry in apart)]
    assert shares == sorted(shares)
    if not evidence.flips:
        within = [probability_within(entry, budget, labelled=labelled) for entry in apart]
        for nearer, further in pairwise(within):
            assert further <= nearer + 1e-9


def test_agreeing_answers_add_certainty_that_few_images_alone_do_not_give() -> None:
    near, far = (probability_within(Evidence(0, 0, 50, kl), 1.0) for kl in (1e-4, 0.05))
    assert near > 0.9
    assert far < 0.6


@given(evidences(), st.floats(0, 3))
@settings(deadline=None, max_examples=60)
def test_another_plan_that_flipped_more_makes_one_more_careful(evidence: Evidence, budget: float) -> None:
    steady, jumpy = Evidence(2, 1, 300, 0.05), Evidence(60, 30, 300, 0.05)
    shares = [np.divide(*flip_prior(evidence.kl, other)) for other in (steady, None, jumpy)]
    assert shares == sorted(shares)


def test_the_rate_of_flips_is_learnt_from_the_other_plan() -> None:
    evidence = Evidence(0, 0, 100, 0.02)
    steady, jumpy = Evidence(2, 1, 300, 0.05), Evidence(60, 30, 300, 0.05)
    within = [probability_within(evidence, 1.0, other=other) for other in (steady, None, jumpy)]
    assert within == sorted(within, reverse=True)
    assert within[0] > within[2] + 0.1
    # However much the other plan flipped, its law is worth a limited number of flips.
    flips, _ = flip_prior(0.02, Evidence(10_000, 5_000, 100_000, 0.05))
    assert flips < 16
    # Another plan that says nothing changes nothing.
    assert flip_prior(0.02, Evidence(0, 0, 0, 0.0)) == flip_prior(0.02)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kl", [0.003, 0.03, 0.3])
def test_few_images_never_look_certain(kl: float, labelled: bool) -> None:
    certainty = [probability_within(Evidence(0, 0, n, kl), 1.0, labelled=labelled) for n in (0, 5, 20, 100, 5000)]
    assert certainty == sorted(certainty)
    assert certainty[2] < 0.99
    assert certainty[4] > 0.99


def test_even_answers_that_do_not_differ_at_all_are_not_certain() -> None:
    within = [probability_within(Evidence(0, 0, images, 0.0), 0.0) for images in (0, 10, 1000)]
    assert all(value < 1 for value in within)
    assert probability_within(Evidence(0, 0, 0, -1e-9), 1.0) == probability_within(Evidence(0, 0, 0, 0.0), 1.0)


def test_a_few_lucky_flips_do_not_look_like_an_improvement() -> None:
    """More gained than lost on few flips: of the unseen ones more are losses."""
    assert probability_within(Evidence(4, 8, 200, 0.02), 0.0) < 0.5
    assert probability_within(Evidence(400, 800, 20_000, 0.02), 0.0) > 0.99


def test_without_labels_a_disagreement_is_only_ever_a_loss() -> None:
    for images in (20, 200):
        evidence = Evidence(2, 0, images, 0.01)
        assert probability_within(evidence, 1.0, labelled=False) <= probability_within(evidence, 1.0)
    assert probability_within(Evidence(0, 0, 10, 0.01), 100.0, labelled=False) == 1.0
    assert probability_within(Evidence(0, 0, 10, 0.01), 0.0, labelled=False) == 0.0


def test_the_evidence_counts_what_was_lost_and_gained() -> None:
    assert Evidence.of(np.array([1, 0, -1, 1, 0], np.int8), 0.01) == Evidence(2, 1, 5, 0.01)
    assert Evidence.of([], 0.0) == Evidence(0, 0, 0, 0.0)
    assert Evidence(2, 1, 5, 0.01).flips == 3


def test_the_expected_divergence_is_one_of_which_half_the_models_are_within_budget() -> None:
    found = [expected_kl(budget) for budget in (0.5, 1.0, 2.0)]
    assert found == sorted(found)
    for budget, kl in zip((0.5, 1.0, 2.0), found, strict=True):
        assert 0.35 < probability_within(Evidence(0, 0, 0, kl), budget) < 0.65
    assert expected_kl(0.0) == 0.0


def test_a_budget_asks_for_agreement_as_well() -> None:
    """Six answers of 200 changed, of which none was right before or after."""
    changed = Evidence(0, 0, 200, 0.01, changed=6)
    drop_only, both = Budget(1.0).probability(changed), Budget(1.0, 0.97).probability(changed)
    assert drop_only > 0.8
    assert both < drop_only - 0.05
    assert both == pytest.approx(probability_within(changed.of_changes, 3.0, labelled=False))
    assert Budget(1.0, 0.9).probability(changed) == drop_only
    # Less agreement may be asked for than the drop alone leaves.
    lossy = replace(changed, lost=8, changed=8)
    assert Budget(1.0, 0.9).probability(lossy) == Budget(1.0).probability(lossy)


def test_without_labels_the_drop_is_the_agreement() -> None:
    evidence = Evidence(4, 0, 200, 0.01, changed=4)
    assert Budget(2.0, 0.999, labelled=False).probability(evidence) == Budget(2.0, labelled=False).probability(evidence)


def test_how_readily_answers_change_is_learnt_from_the_other_plan() -> None:
    evidence = Evidence(0, 0, 100, 0.02)
    steady, jumpy = (Evidence(0, 0, 300, 0.05, changed=changed) for changed in (2, 60))
    within = [Budget(5.0, 0.97).probability(evidence, other) for other in (steady, jumpy)]
    assert within[0] > within[1] + 0.1


def test_what_is_expected_nearer_to_the_original() -> None:
    evidence = Evidence(8, 4, 200, 0.04, changed=16)
    assert evidence.nearer(0.25) == Evidence(4, 2, 200, 0.01, changed=8)
    assert evidence.nearer(1.0) == evidence
