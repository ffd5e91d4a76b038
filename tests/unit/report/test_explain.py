"""One layer's story in plain text."""

from __future__ import annotations

import msgspec
import pytest

from ranksmith.errors import NodeNotFoundError
from ranksmith.report.explain import explain
from ranksmith.results import LayerRecord, Manifest, OptionRecord
from tests.unit.report import manifests
from tests.unit.report.mixed import mixed

replace = msgspec.structs.replace


def option(kind: str | None, rank: int | None, ms: float | None, verdict: str, precision: str = "fp32") -> OptionRecord:
    return OptionRecord(
        kind=kind, rank=rank, precision=precision, predicted_ms=ms, error=0.051, damage=0.00042, verdict=verdict
    )


def story(**fields: object) -> str:
    layer = msgspec.structs.replace(
        manifests.faster().layers[2],
        **{
            "node": "conv",
            "kind": "output-pca",
            "rank": 16,
            "full_rank": 64,
            "precision": "int8",
            "reason": "decomposed",
            "detail": "rank 16 and int8 take 0.25 of the time",
            "baseline_ms": 2.0,
            "predicted_ms": 0.5,
            "measured_ms": 0.55,
            "retained_energy": 0.9912,
            "sensitivity": 0.25,
            "damage": 0.003,
            "weighted": True,
            "options": [],
        }
        | fields,
    )
    other = replace(layer, node="other", baseline_ms=6.0, damage=0.001)
    return explain(replace(manifests.faster(), layers=[other, layer]), "conv")


def test_a_story_tells_what_was_decided_why_and_whether_it_came_true() -> None:
    told = story()
    for words in (
        "decision      decomposed: output-pca, rank 16 of 64, int8",
        "why           rank 16 and int8 take 0.25 of the time",
        "where         Conv 2 of 2, 25.0 % of their time in the original",
        "time          2.00 ms before, 0.50 ms predicted, 0.55 ms measured (10 % more than predicted)",
        "energy kept   99.12 %",
        "sensitivity   0.25 nats",
        "damage        3.00 mnat",
        "75.0 % of all layers'",
        "fitted to the model's output",
        "Nothing else was considered",
    ):
        assert words in told
    assert "(12 % less than predicted)" in story(measured_ms=0.44)
    assert "\N{NO-BREAK SPACE}" not in told


def test_options_are_listed_fastest_first_and_untimed_ones_last() -> None:
    options = [
        option(None, None, 2.0, "slower"),
        option("tucker2", 8, None, "pays"),
        option("output-pca", 16, 0.5, "chosen", "int8"),
        option("spatial-vertical", 32, 0.8, "dominated"),
    ]
    lines = story(options=options).splitlines()
    header = next(index for index, line in enumerate(lines) if "verdict" in line)
    table = [" ".join(line.split()) for line in lines[header + 1 : header + 5]]
    assert table == [
        "* output-pca 16 int8 0.50 ms 4.00× 5.1 % 0.42 mnat chosen",
        "spatial-vertical 32 fp32 0.80 ms 2.50× 5.1 % 0.42 mnat dominated",
        "as it is – fp32 2.00 ms 1.00× 5.1 % 0.42 mnat",
        "tucker2 8 fp32 – – 5.1 % 0.42 mnat pays",
    ]
    assert "Considered, fastest first (4):" in lines
    meanings = [line.split()[0] for line in lines[header + 6 :]]
    assert meanings == ["chosen", "pays", "dominated"]


def test_a_kept_layer_about_which_little_is_known_has_a_story_too() -> None:
    manifest = manifests.tiny()
    told = explain(manifest, manifest.layers[0].node)
    assert "kept-stem" in told
    assert "Nothing else was considered" in told
    assert "time" not in told.split()
    kept = story(
        kind=None, rank=None, precision="fp32", reason="kept-slower", options=[option("tucker2", 8, 3.0, "slower")]
    )
    assert "decision      kept-slower\n" in kept
    assert "time          2.00 ms before, 0.55 ms measured\n" in kept
    assert "0.67×" in kept


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    layer = replace(manifests.faster().layers[1], node="a\x1b[31m", detail="b\x07")
    told = explain(replace(manifests.faster(), layers=[layer]), "a\x1b[31m")
    assert told.replace("\n", "").isprintable()


def test_every_layer_of_a_full_manifest_has_a_story() -> None:
    manifest: Manifest = mixed()
    layers: list[LayerRecord] = manifest.layers
    for layer in layers:
        assert explain(manifest, layer.node).startswith(f"{layer.node}\n")


def test_an_unknown_node_is_told_with_the_nearest_names() -> None:
    with pytest.raises(NodeNotFoundError, match="no Conv named 'res2a_branch2d'") as caught:
        explain(manifests.faster(), "res2a_branch2d")
    assert "res2a_branch2a" in (caught.value.hint or "")
