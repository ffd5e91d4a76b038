"""Tables: what is in the manifest, as CSV that reads back."""

from __future__ import annotations

import csv
import io

import pytest

from ranksmith.report.families import FAMILIES
from ranksmith.report.tables import spectrum_table, sweep_table, tables
from ranksmith.results import Spectrum, SpectrumReport, SweepReport
from tests.unit.report import manifests
from tests.unit.report.mixed import mixed


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_each_table_has_a_line_for_each_thing() -> None:
    manifest = manifests.faster()
    found = {name: rows(text) for name, text in tables(manifest).items()}
    assert [line["node"] for line in found["layers.csv"]] == [layer.node for layer in manifest.layers]
    assert [line["name"] for line in found["frontier.csv"]] == [point.name for point in manifest.frontier]
    assert len(found["latency.csv"]) == sum(len(pair.baseline_ms) for pair in manifest.latency)
    assert len(found["spectra.csv"]) == sum(len(spectrum.output) for spectrum in manifest.spectra)
    assert {line["stage"] for line in found["stages.csv"]} == set(manifest.stages_s)


def test_numbers_keep_six_digits_and_what_is_unknown_is_empty() -> None:
    manifest = manifests.faster()
    found = {name: rows(text) for name, text in tables(manifest).items()}
    layer, line = manifest.layers[2], found["layers.csv"][2]
    assert layer.measured_ms is not None
    assert float(line["measured_ms"]) == pytest.approx(layer.measured_ms, rel=1e-5)
    assert found["layers.csv"][0]["rank"] == ""
    assert found["frontier.csv"][0]["speedup_low"] == ""
    pair = found["latency.csv"][0]
    assert float(pair["ratio"]) == pytest.approx(float(pair["original_ms"]) / float(pair["result_ms"]), rel=1e-5)


def test_options_providers_and_predictions_read_back() -> None:
    manifest = mixed()
    found = {name: rows(text) for name, text in tables(manifest).items()}
    options = [(layer.node, option.verdict) for layer in manifest.layers for option in layer.options]
    assert [(line["node"], line["verdict"]) for line in found["options.csv"]] == options
    assert [line["provider"] for line in found["providers.csv"]] == ["openvino", "openvino-bf16"]
    assert float(found["providers.csv"][0]["ratio_low"]) == 3.85
    assert manifest.prediction is not None
    assert [float(line["measured_ms"]) for line in found["prediction.csv"]] == manifest.prediction.measured_ms
    assert {line["family"] for line in found["frontier.csv"]} == set(FAMILIES)
    empty = tables(manifests.faster())
    assert [rows(empty[name]) for name in ("options.csv", "providers.csv", "prediction.csv")] == [[], [], []]


def test_manifests_without_families_name_the_untouched_models() -> None:
    found = rows(tables(manifests.faster())["frontier.csv"])
    assert [line["family"] for line in found[:3]] == ["original", "folded", "low-rank"]


def test_names_with_commas_quotes_and_line_breaks_read_back() -> None:
    manifest = manifests.tiny()
    assert rows(tables(manifest)["layers.csv"])[0]["node"] == manifest.layers[0].node


def test_a_weight_of_another_rank_than_its_output_leaves_cells_empty() -> None:
    spectrum = Spectrum(node="c", output=[0.5, 0.75, 1.0], weight=[1.0])
    report = SpectrumReport(model="m", data="d", images=1, spectra=[spectrum])
    lines = rows(spectrum_table(report))
    assert [line["weight_energy"] for line in lines] == ["1", "", ""]
    assert [line["rank"] for line in lines] == ["1", "2", "3"]


def test_a_sweep_without_points_is_a_header() -> None:
    report = SweepReport(model="m", node="n", kind="k", data="d", images=1, threshold=0.005, points=[], best={})
    assert sweep_table(report).startswith("rank,output_relative_l2,")
    assert sweep_table(report).count("\n") == 1
