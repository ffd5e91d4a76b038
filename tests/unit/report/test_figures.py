"""Figures: well-formed vector graphics with text as text, the same for the same numbers."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from ranksmith.report.drawing import themed
from ranksmith.report.figure_audit import prediction_svg
from ranksmith.report.figure_frontier import off_scale
from ranksmith.report.figure_layers import layers_svg
from ranksmith.report.figure_spectra import rank_for, spectrum_svg
from ranksmith.report.figure_sweep import sweep_svg
from ranksmith.report.figures import figures
from ranksmith.results import LayerRecord, Manifest, PredictionAudit, Spectrum, SweepPoint, SweepReport
from tests.unit.report import manifests
from tests.unit.report.mixed import mixed

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    """The pieces of text in a figure; parsing it proves that it is well-formed."""
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return figures(manifests.faster())


def test_a_full_manifest_has_every_figure(drawn: dict[str, str]) -> None:
    assert list(drawn) == ["frontier", "latency", "audit", "layers", "spectra", "errors"]
    for svg in drawn.values():
        assert texts(svg)
        assert "<image" not in svg
        assert "dc:date" not in svg


def few(manifest: Manifest) -> Manifest:
    """Without the layers and spectra, whose drawing takes the time."""
    return msgspec.structs.replace(manifest, layers=[], spectra=[], rank_errors={}, latency=[])


def test_the_same_manifest_gives_the_same_figures(drawn: dict[str, str]) -> None:
    assert figures(manifests.faster()) == drawn


def test_what_the_manifest_does_not_know_is_not_drawn() -> None:
    assert list(figures(manifests.tiny())) == ["frontier", "latency", "spectra", "errors"]
    kept = msgspec.structs.replace(few(manifests.kept_original()), layers=manifests.kept_original().layers[:2])
    assert list(figures(kept)) == ["frontier", "layers"]
    empty = msgspec.structs.replace(manifests.tiny(), frontier=[], latency=[], spectra=[], rank_errors={})
    assert figures(empty) == {}


@pytest.fixture(scope="module")
def everything() -> Manifest:
    return mixed()


@pytest.mark.parametrize("narrow", [False, True])
def test_the_frontier_draws_every_family_that_it_has(everything: Manifest, narrow: bool) -> None:
    shown = texts(figures(few(everything), narrow=narrow)["frontier"])
    for label in ("original", "folded", "int8 alone", "uniform SVD", "low rank", "low rank × int8"):
        assert shown.count(label) == 1
    assert "chosen, 4.20×" in shown
    assert "asked for: at most 1 pp" in shown
    only = msgspec.structs.replace(few(everything), frontier=everything.frontier[:3])
    shown = texts(figures(only, narrow=narrow)["frontier"])
    assert "int8 alone" in shown
    assert "uniform SVD" not in shown


def test_what_lost_far_too_much_does_not_flatten_the_rest(everything: Manifest) -> None:
    assert [point.selection_drop_pp for point in off_scale(everything)] == [14.0, 47.0]
    ticks = [text for text in texts(figures(few(everything))["frontier"]) if text.isdigit()]
    assert max(map(int, ticks)) <= 6
    hopeless = [
        msgspec.structs.replace(point, selection_drop_pp=80.0, chosen=False) for point in everything.frontier[:2]
    ]
    figures(msgspec.structs.replace(few(everything), frontier=hopeless))


def test_whole_models_and_changed_convs_are_audited(everything: Manifest) -> None:
    drawn = figures(msgspec.structs.replace(few(everything), layers=everything.layers[:6], frontier=[]))
    assert list(drawn) == ["prediction", "audit", "layers"]
    assert "Whole models: measured ms" in texts(drawn["prediction"])
    assert "Single Convs: measured ms" in texts(drawn["audit"])
    assert prediction_svg(PredictionAudit(plans=0, median_error=0.0, predicted_ms=[], measured_ms=[])) is None


def test_a_row_tells_kind_rank_and_precision(everything: Manifest) -> None:
    def layer(**fields: Any) -> LayerRecord:
        chosen = {"kind": "output-pca", "rank": 16, "full_rank": 64, "precision": "int8"} | fields
        return msgspec.structs.replace(everything.layers[1], **chosen)

    layers = [
        layer(node="a"),
        layer(node="b", kind="spatial-vertical", rank=96),
        layer(node="c", kind=None, rank=None),
        layer(node="d", kind=None, rank=None, precision="fp32", reason="kept-sensitive"),
        layer(node="e", precision="fp32"),
    ]
    svg, narrow = layers_svg(layers), layers_svg(layers, narrow=True)
    assert svg is not None
    assert narrow is not None
    told = ["output-pca, 16 of 64 · int8", "spatial-vertical, 96 · int8", "int8", "sensitive", "output-pca, 16 of 64"]
    assert [text for text in texts(svg) if text in told] == told
    assert [text for text in texts(narrow) if text in ("16/64", "96", "int8", "sensitive")] == [
        "16/64", "96", "int8", "sensitive", "16/64"
    ]  # fmt: skip


def test_a_rank_that_is_not_of_the_output_is_not_marked_on_its_spectrum(everything: Manifest) -> None:
    """A spatial pair's rank may exceed the number of output channels."""
    layer = msgspec.structs.replace(everything.layers[2], kind="spatial-vertical", rank=100)
    spectrum = Spectrum(node=layer.node, output=[0.5, 0.8, 1.0], weight=[0.5, 0.8, 1.0])
    drawn = figures(
        msgspec.structs.replace(
            few(everything), frontier=[], layers=[layer], spectra=[spectrum], rank_errors={layer.node: [0.7, 0.4, 0.0]}
        )
    )
    assert "100" in texts(drawn["spectra"])
    texts(drawn["errors"])


@pytest.mark.parametrize("narrow", [False, True])
def test_the_frontier_names_what_was_chosen_and_what_was_asked_for(narrow: bool) -> None:
    shown = texts(figures(few(manifests.faster()), narrow=narrow)["frontier"])
    assert "chosen, 1.26×" in shown
    assert "original and folded" in shown
    assert "asked for: at most 1 pp" in shown
    kept = texts(figures(few(manifests.kept_original()), narrow=narrow)["frontier"])
    assert "original and folded, kept" in kept
    assert not any(text.startswith("chosen") for text in kept)


def test_without_labels_the_frontier_speaks_of_agreement() -> None:
    shown = texts(figures(few(manifests.unlabelled()))["frontier"])
    assert "Agreement lost, pp" in shown
    assert "KL from the original, nats" in shown


def test_every_conv_has_its_row_and_its_spectrum(drawn: dict[str, str]) -> None:
    nodes = {layer.node for layer in manifests.faster().layers}
    assert nodes <= set(texts(drawn["layers"]))
    assert nodes <= set(texts(drawn["spectra"]))


def test_of_very_many_convs_the_costliest_are_drawn() -> None:
    layer = next(layer for layer in manifests.faster().layers if layer.rank is not None)
    many = [
        msgspec.structs.replace(layer, node=f"conv{index:03}", baseline_ms=1.0 + index, predicted_ms=None)
        for index in range(100)
    ]
    svg = layers_svg(many)
    assert svg is not None
    shown = texts(svg)
    assert "conv099" in shown
    assert "conv019" not in shown
    assert any("20 more in the table" in text for text in shown)


def test_a_late_burst_is_told_and_not_drawn() -> None:
    manifest = manifests.faster()
    pair = manifest.latency[0]
    late = msgspec.structs.replace(pair, baseline_ms=[*pair.baseline_ms[:-1], 5000.0])
    svg = figures(msgspec.structs.replace(few(manifest), latency=[late]))["latency"]
    assert any("later ones not shown" in text for text in texts(svg))


def test_a_very_long_run_does_not_make_a_huge_figure() -> None:
    manifest = manifests.faster()
    pair = manifest.latency[0]
    rng = np.random.default_rng(0)
    long = msgspec.structs.replace(
        pair, baseline_ms=list(rng.normal(40, 1, 20_000)), result_ms=list(rng.normal(30, 1, 20_000))
    )
    svg = figures(msgspec.structs.replace(few(manifest), latency=[long]))["latency"]
    assert len(svg) < 300_000


def replaced(node: str) -> Manifest:
    manifest = manifests.faster()
    layer = next(layer for layer in manifest.layers if layer.rank is not None)
    layer = msgspec.structs.replace(layer, node=node)
    spectrum = msgspec.structs.replace(manifest.spectra[0], node=node)
    return msgspec.structs.replace(
        manifest, layers=[layer], spectra=[spectrum], rank_errors={node: [0.5, 0.0] * 1024}, latency=[], frontier=[]
    )


@pytest.mark.parametrize(
    "node", ["<script>alert(1)</script>", "$x^2$", "a\0b\x1b[31m\nc", "卷积层/\U0001f600", 'id="x" url(#y) #1d2228']
)
def test_hostile_names_are_text_and_nothing_else(node: str) -> None:
    for narrow in (False, True):
        for name, svg in figures(replaced(node), narrow=narrow).items():
            ElementTree.fromstring(svg)
            inline = themed(svg, name, "d")
            root = ElementTree.fromstring(inline)
            assert not list(root.iter("script"))
            assert "<script" not in inline


def test_within_a_page_colours_are_variables_and_ids_are_its_own(drawn: dict[str, str]) -> None:
    inline = themed(drawn["latency"], "latency-wide", "Latency")
    root = ElementTree.fromstring(inline)
    assert root.attrib["aria-label"] == "Latency"
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert ids
    assert all(name.startswith("latency-wide-") for name in ids)
    assert len(ids) == len(set(ids))
    assert "var(--accent)" in inline
    assert "#0b6e75" not in inline
    assert "<style" not in inline
    for reference in ("url(#", 'href="#'):
        assert inline.count(reference) == inline.count(f"{reference}latency-wide-")


def test_the_rank_for_an_energy_is_the_least_that_retains_it() -> None:
    assert rank_for([0.5, 0.9, 1.0], 0.9) == 2
    assert rank_for([0.5, 0.9, 1.0], 0.91) == 3
    assert rank_for([0.5, 0.9999999], 1.0) == 2


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_spectrum_figure_marks_the_ranks_of_90_95_and_99_percent(count: int) -> None:
    energy = [0.5, 0.9, 0.96, 0.995, 1.0]
    spectra = [Spectrum(node=f"block/conv{index}", output=energy, weight=energy) for index in range(count)]
    shown = [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts(spectrum_svg(spectra, "model, <data>"))]
    assert "model, <data>" in shown
    for mark in ("90 %: 2", "95 %: 3", "99 %: 4"):
        assert shown.count(mark) == count


def sweep(error: Callable[[int], float], ranks: list[int]) -> SweepReport:
    points = [
        SweepPoint(
            rank=rank,
            macs_ratio=rank / 14,
            **{name: error(rank) for name in SweepPoint.__struct_fields__ if name not in ("rank", "macs_ratio")},
        )
        for rank in ranks
    ]
    best = {"output_relative_l2": 12} if 12 in ranks else {}
    return SweepReport(
        model="m", node="a$b$", kind="output-pca", data="d", images=3, threshold=0.005, points=points, best=best
    )


@pytest.mark.parametrize("ranks", [[4, 8, 12, 16], [8]])
def test_a_sweep_figure_marks_the_best_rank(ranks: list[int]) -> None:
    shown = texts(sweep_svg(sweep(lambda rank: 1 - rank / 16, ranks)))
    assert "a$b$: output-pca" in shown
    assert ("L2, best at 12" in shown) == (12 in ranks)
    assert ("not cheaper" in shown) == (16 in ranks)


def test_a_sweep_without_any_error_can_be_drawn() -> None:
    assert texts(sweep_svg(sweep(lambda rank: 0.0, [1, 2])))
