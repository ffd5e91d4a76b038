from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith import results
from ranksmith.results import LatencySummary, PlanEntry, RankPlan, Speedup, from_json, to_json

names = st.text(max_size=20)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.builds(PlanEntry, node=names, kind=names, rank=st.integers(1, 4096))
        | st.builds(PlanEntry, node=names, precision=st.sampled_from(["fp32", "int8", None])),
        max_size=4,
    )
)
def test_a_result_survives_its_json(layers: list[PlanEntry]) -> None:
    plan = RankPlan(source_sha256="00", layers=layers)
    assert from_json(to_json(plan), RankPlan) == plan


def test_the_schema_is_part_of_the_document() -> None:
    document = json.loads(to_json(RankPlan(layers=[])))
    assert list(document) == list(RankPlan.__struct_fields__)
    assert document["schema"] == "ranksmith.plan/1"
    assert (document["source_sha256"], document["layers"]) == (None, [])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_becomes_null(value: float) -> None:
    text = to_json(Speedup(ratio=value, ci95=(1.0, value)))
    assert json.loads(text, parse_constant=pytest.fail) == {"ratio": None, "ci95": [1.0, None]}


def test_a_plan_of_the_first_version_still_parses() -> None:
    text = '{"schema": "ranksmith.plan/1", "layers": [{"node": "a", "kind": "output-pca", "rank": 8}]}'
    plan = from_json(text, RankPlan)
    assert plan.precision == "fp32"
    assert plan.layers == [PlanEntry(node="a", kind="output-pca", rank=8)]


def test_a_kind_and_its_rank_go_together() -> None:
    with pytest.raises(ValueError, match="a: kind and rank go together"):
        PlanEntry(node="a", kind="output-pca")
    with pytest.raises(msgspec.ValidationError, match="a: kind and rank go together"):
        from_json('{"layers": [{"node": "a", "rank": 8}]}', RankPlan)


@pytest.mark.parametrize("text", ["", "{}", '{"layers": 1}', '{"layers": [{"kind": "a"}]}', "[]"])
def test_a_document_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        from_json(text, RankPlan)


def test_results_cannot_be_changed() -> None:
    summary = LatencySummary(mean=1.0, p50=1.0, p90=1.0, p99=1.0)
    with pytest.raises(AttributeError):
        summary.mean = 2.0  # type: ignore[misc]


def test_every_schema_is_named_and_versioned_once() -> None:
    schemas = []
    for name in results.__all__:
        kind = getattr(results, name)
        if isinstance(kind, type) and "schema" in getattr(kind, "__struct_fields__", ()):
            fields = {field.name: field for field in msgspec.structs.fields(kind)}
            schemas.append(fields["schema"].default)
    assert len(schemas) == len(set(schemas))
    assert all(schema.startswith("ranksmith.") and schema.endswith("/1") for schema in schemas)
    assert {"ranksmith.evaluation/1", "ranksmith.bench/1", "ranksmith.bundle/1"} <= set(schemas)
