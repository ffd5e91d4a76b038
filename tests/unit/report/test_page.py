"""The page: what it says of each kind of result, that it loads nothing, and that names stay text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from ranksmith.report.page import render, write_report
from ranksmith.results import Manifest
from tests.unit.report import manifests
from tests.unit.report.mixed import mixed


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self._text: list[str] = []
        self._skip = 0
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self._text).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self._skip += tag in ("style", "svg")

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("style", "svg")

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self._text.append(data)


def light(manifest: Manifest) -> Manifest:
    """Without most layers and all spectra, whose drawing takes the time."""
    return msgspec.structs.replace(manifest, layers=manifest.layers[:3], spectra=[], rank_errors={})


@pytest.fixture(scope="module")
def faster_html() -> str:
    return render(manifests.faster())


def test_a_faster_model_says_how_much_and_at_what_cost(faster_html: str) -> None:
    text = Page(faster_html).text
    assert re.search(r"1\.25 × faster at batch 1, 95 % interval 1\.2\d to 1\.2\d", text)
    assert "instead of" in text
    assert "on 97.7 % of 266 images that took no part in making it" in text
    assert "Top-1 lost 0.38 pp 95 %: −0.75 to 1.50" in text
    assert "The interval reaches beyond what was asked for" in text
    assert "one image of imagenet-sample could not be read" in text
    assert "ranksmith compress resnet50-v1.onnx" in text
    for part in ("5f" * 32, "a3" * 32, "0c" * 32, "onnxruntime 1.32.0", "Example EX-9000", "2 min 12 s"):
        assert part in text


def test_a_kept_original_says_so_and_why() -> None:
    text = Page(render(light(manifests.kept_original()))).text
    assert "Kept as it was." in text
    assert "12 plans were judged, 8 of them within 1 pp of top-1" in text
    assert "the same answers, no slower" in text
    assert not re.search(r"\d × faster", text)
    assert "original" in text


@pytest.mark.parametrize(
    ("plans", "told"), [(2, "there was no plan to judge"), (20, "12 plans were judged, none of them")]
)
def test_a_kept_original_tells_apart_no_plan_and_no_good_plan(plans: int, told: str) -> None:
    manifest = msgspec.structs.replace(manifests.kept_original(), max_drop_pp=-1.0)
    manifest = msgspec.structs.replace(manifest, frontier=manifest.frontier[:plans])
    assert told in Page(render(light(manifest))).text


def test_without_labels_agreement_is_said_to_stand_in_for_accuracy() -> None:
    text = Page(render(light(manifests.unlabelled()))).text
    assert "agreement stands in for accuracy" in text
    assert "Agreement lost: 2.26 pp, 95 % interval 0.75 to 4.14" in text
    assert "Top-1" not in text


def test_what_was_gained_is_not_called_a_negative_loss() -> None:
    manifest = light(manifests.faster())
    better = msgspec.structs.replace(manifest.accuracy, drop_pp=-1.33, drop_ci95_pp=(-4.0, 0.5))
    text = Page(render(msgspec.structs.replace(manifest, accuracy=better))).text
    assert "Top-1 gained 1.33 pp 95 %: −0.50 to 4.00" in text


def test_a_note_on_the_accuracy_is_shown() -> None:
    manifest = light(manifests.faster())
    noted = msgspec.structs.replace(manifest.accuracy, note="beyond the budget on these images alone")
    assert "Beyond the budget on these images alone" in render(msgspec.structs.replace(manifest, accuracy=noted))


def test_a_loss_beyond_what_was_asked_for_is_not_put_down_to_chance() -> None:
    text = Page(render(msgspec.structs.replace(light(manifests.faster()), max_drop_pp=0.25))).text
    assert "Top-1 lost 0.38 pp 95 %: −0.75 to 1.50 asked for: at most 0.25 pp" in text
    assert "the loss is larger than the 0.25 pp that were asked for" in text
    assert "cannot pin down" not in text


def test_it_says_how_many_choices_the_held_out_images_judged() -> None:
    manifest = light(manifests.faster())
    once = Page(render(manifest)).text
    assert "took no part in calibration or search, nor in the choice." in once
    assert "choices were judged" not in once
    again = msgspec.structs.replace(manifest.accuracy, choices_judged=2)
    text = Page(render(msgspec.structs.replace(manifest, accuracy=again))).text
    assert "2 choices were judged on these images" in text
    assert "nor in the choice" not in text


def test_a_latency_of_other_batches_is_told_as_such() -> None:
    manifest = light(manifests.faster())
    text = Page(render(msgspec.structs.replace(manifest, latency=manifest.latency[1:]))).text
    assert "A batch of 8 takes" in text
    assert "Faster." in Page(render(msgspec.structs.replace(manifest, latency=[]))).text


def test_every_layer_is_there_with_its_reason(faster_html: str) -> None:
    manifest = manifests.faster()
    text = Page(faster_html).text
    for layer in manifest.layers:
        assert f"{layer.node} {layer.reason}" in text
        assert layer.detail in text


@pytest.fixture(scope="module")
def mixed_html() -> str:
    return render(light(mixed()))


def test_low_rank_and_int8_together_are_told_apart(mixed_html: str) -> None:
    text = Page(mixed_html).text
    assert "1 of its 3 Convs are low-rank, 2 compute in 8-bit integers." in text
    assert "Convs decomposed 1 of 3, 2 in int8" in text
    assert "quantized 1 Conv" in text
    assert "low rank × int8 4.20×" in text
    assert "the true loss is within what was asked for: 83 %" in text


def test_predictions_and_other_providers_have_their_sections(mixed_html: str) -> None:
    text = Page(mixed_html).text
    assert "The latency of 8 whole models was predicted" in text
    assert "off by 3.1 % in the median" in text
    assert "Of 2 changed Convs the prediction was off by" in text
    assert "openvino , fp32 · 3.92× , 3.85 to 3.99" in text
    assert "cpu , int8 · 4.18× , 4.12 to 4.24 · chosen for this" in text
    assert "this CPU computes bf16 without AMX" in text
    assert "Correcting mean and bias of 31 Convs" in text


def test_sections_of_what_was_not_measured_are_left_out() -> None:
    bare = msgspec.structs.replace(light(mixed()), layers=[], prediction=None, providers=[], notes=[])
    html = render(bare)
    assert not {"prediction", "providers"} & set(Page(html).ids)
    for words in ("Predicted against measured", "On other providers", "Found on the way", "was considered for each"):
        assert words not in html


def test_what_was_considered_is_there_for_each_conv(mixed_html: str) -> None:
    text = Page(mixed_html).text
    assert "What was considered for each Conv: 16 options" in text
    chosen = next(option for option in mixed().layers[2].options if option.verdict == "chosen")
    assert f"{chosen.kind} {chosen.rank} int8" in text
    assert "1 more, each no faster than another that does less damage" in text


@pytest.mark.parametrize(
    "manifest", [None, light(manifests.kept_original()), manifests.tiny()], ids=["mixed", "kept", "tiny"]
)
def test_a_page_needs_nothing_but_itself(manifest: Manifest | None, mixed_html: str) -> None:
    html = mixed_html if manifest is None else render(manifest)
    page = Page(html)
    assert "script" not in page.tags
    assert "default-src 'none'" in html
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith(("#", "data:")), (name, value)
        assert not name.startswith("on")
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))
    linked = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert linked <= set(page.ids)


def test_hostile_names_stay_text() -> None:
    html = render(manifests.tiny())
    page = Page(html)
    assert "script" not in page.tags
    assert '<script>alert("$x_1$")</script> {{ 7 * 7 }}' in page.text
    assert "49" not in page.text


def test_the_same_manifest_gives_the_same_page() -> None:
    assert render(light(manifests.faster())) == render(light(manifests.faster()))


def test_the_report_is_written_with_its_figures_and_tables(tmp_path: Path, faster_html: str) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "left-over.svg").write_text("<svg/>")
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "model.onnx").write_bytes(b"untouched")
    page = write_report(manifests.faster(), tmp_path)
    assert page == tmp_path / "report.html"
    assert page.read_text(encoding="utf-8") == faster_html
    assert {path.name for path in tmp_path.iterdir()} == {"report", "report.html", "model.onnx"}
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {
        *(f"{name}.svg" for name in ("frontier", "latency", "layers", "audit", "spectra", "errors")),
        *(f"{name}.csv" for name in ("layers", "options", "frontier", "latency", "prediction", "providers")),
        *(f"{name}.csv" for name in ("spectra", "stages")),
    }
