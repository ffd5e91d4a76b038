"""Which plans a family's search judges, and what it takes from earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ranksmith.progress import Silent
from ranksmith.results import RankPlan, to_json
from ranksmith.search.candidates import Option
from ranksmith.search.evidence import Budget, Evidence, expected_kl
from ranksmith.workflow.compress.family import Choices, Family
from ranksmith.workflow.compress.job import CompressOptions
from ranksmith.workflow.compress.search import FamilySearch

LAYERS = [f"layer{index}" for index in range(24)]
RANKS = (32, 24, 16, 8)
STEP = expected_kl(1.0) / 80


def options_of(index: int) -> list[Option]:
    """Of one layer: each step in rank saves a quarter of its time at thrice the damage of the one before."""
    return [
        Option(
            LAYERS[index],
            "output-pca",
            rank,
            macs=rank,
            dense_macs=40,
            params=rank,
            dense_params=40,
            error=0.1,
            ms=rank / 10,
            dense_ms=4.0,
            damage=STEP * (index + 1) * 3.0**place / 10,
        )
        for place, rank in enumerate(RANKS)
    ]


@dataclass
class Judge:
    """Answers that change as the plan's damage says, whatever the machine."""

    family: Family
    harmful: float = expected_kl(1.0)
    judged: list[str] = field(default_factory=list)

    def __call__(self, plan: RankPlan, images: object) -> Any:
        choices = self.family.choices(plan)
        assert choices is not None
        self.judged.append(to_json(plan))
        kl = sum(option.damage or 0.0 for option in choices.values())
        flips = round(1000 * 0.22 * np.sqrt(kl))
        lost = round(0.65 * flips)
        return SimpleNamespace(evidence=Evidence(lost, flips - lost, 1000, kl, flips), kl=kl)


class Search(FamilySearch):
    """On a machine where every layer takes in the whole model what the table says."""

    def _correct(self, choices: Choices) -> None:
        pass

    def _without_slower(self, chosen: Choices) -> tuple[Choices, list[str]]:
        return chosen, []


def search_of(*, earlier: Sequence[RankPlan] = (), slower: Sequence[str] = ()) -> tuple[Search, Judge]:
    """
    Args:
        slower: layers whose decompositions do not pay there.
    """
    options = {node: options_of(index) for index, node in enumerate(LAYERS)}
    for node in slower:
        options[node] = [replace(option, ms=4.2) for option in options[node]]
    family = Family("fp32", b"", 4.0 * len(LAYERS), dict.fromkeys(LAYERS, 4.0), options)
    judge = Judge(family)
    judging: Any = judge
    job: Any = SimpleNamespace(
        options=CompressOptions(output=Path("bundle"), confidence=0.6), budget=Budget(1.0), progress=Silent()
    )
    prepared: Any = SimpleNamespace(
        infos=[SimpleNamespace(node=node) for node in LAYERS], source_sha256="", calibration=range(8)
    )
    return Search(job, prepared, judging, family, earlier), judge


IMAGES: Any = None


def judged(search: Search) -> list[RankPlan]:
    return [one.plan for one in search.tried.values()]


def test_the_strongest_acceptable_plan_is_bracketed() -> None:
    search, judge = search_of()
    search.run(IMAGES, None)
    damages = sorted((one.damage, one.is_accepted(0.6)) for one in search.tried.values())
    accepted = [damage for damage, fine in damages if fine]
    refused = [damage for damage, fine in damages if not fine]
    assert max(accepted) < min(refused) < 1.5 * max(accepted)
    assert len(judge.judged) > 2
    assert not search.only_shown


@pytest.mark.parametrize(("rival", "shown"), [(0.5, True), (0.9, False)])
def test_a_family_that_is_far_behind_is_shown_and_not_searched(rival: float, shown: bool) -> None:
    alone, _ = search_of()
    alone.run(IMAGES, None)
    search, judge = search_of()
    search.run(IMAGES, None, rival_ms=rival * alone.fastest_ms)
    assert search.only_shown == shown
    assert (len(set(judge.judged)) == 1) == shown
    # Without the rival it is searched after all.
    search.run(IMAGES, None)
    assert search.fastest_ms == alone.fastest_ms
    assert not search.only_shown


def test_what_earlier_runs_settled_is_not_searched_again() -> None:
    first, _ = search_of()
    first.run(IMAGES, None)
    again, judge = search_of(earlier=judged(first))
    again.run(IMAGES, None)
    assert set(judge.judged) <= set(first.tried)
    assert again.fastest_ms == first.fastest_ms
    assert len(again.tried) == 2


def test_a_machine_on_which_other_layers_pay_is_searched_anew() -> None:
    first, _ = search_of()
    first.run(IMAGES, None)
    fresh, _ = search_of(slower=LAYERS[:6])
    fresh.run(IMAGES, None)
    search, _ = search_of(slower=LAYERS[:6], earlier=judged(first))
    search.run(IMAGES, None)
    assert search.fastest_ms <= 1.05 * fresh.fastest_ms
    assert set(search.tried) - set(first.tried)


def test_without_a_bolder_plan_that_failed_nothing_is_settled() -> None:
    first, _ = search_of()
    first.run(IMAGES, None)
    mild = [one.plan for one in first.acceptable if one.damage < 0.5 * max(each.damage for each in first.acceptable)]
    search, _ = search_of(earlier=mild)
    search.run(IMAGES, None)
    assert search.fastest_ms == pytest.approx(first.fastest_ms, rel=0.05)
    assert set(search.tried) - set(first.tried) or len(search.tried) > 2


def test_after_a_step_back_earlier_plans_do_not_settle_it() -> None:
    first, _ = search_of()
    first.run(IMAGES, None)
    again, _ = search_of(earlier=judged(first))
    again.run(IMAGES, None)
    best = max(again.acceptable, key=lambda one: one.damage)
    again.milder(best, 0.5)
    again.run(IMAGES, None)
    assert again.acceptable
    assert max(one.damage for one in again.acceptable) <= 0.5 * best.damage
