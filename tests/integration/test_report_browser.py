"""The report in a real browser: complete, quiet, offline, and never wider than its window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ranksmith.report.page import render
from ranksmith.results import Manifest
from tests.unit.report import manifests
from tests.unit.report.mixed import mixed

MAKERS = {
    "faster": manifests.faster,
    "kept_original": lambda: _few_layers(manifests.kept_original()),
    "unlabelled": lambda: _few_layers(manifests.unlabelled()),
    "tiny": manifests.tiny,
    "mixed": mixed,
}
HEADLINES = {
    "faster": "1.25×",
    "kept_original": "Kept as it was.",
    "unlabelled": "1.25×",
    "tiny": "2.00×",
    "mixed": "4.18×",
}
LOOKS = [("faster", width, scheme) for width in (390, 768, 1280) for scheme in ("light", "dark")]
LOOKS += [("mixed", width, scheme) for width, scheme in ((390, "light"), (1280, "dark"))]
LOOKS += [
    (kind, *look) for kind in ("kept_original", "unlabelled", "tiny") for look in ((390, "dark"), (1280, "light"))
]


def _few_layers(manifest: Manifest) -> Manifest:
    """One page with all 53 layers is enough to see that they fit."""
    return msgspec.structs.replace(manifest, layers=manifest.layers[:9], spectra=manifest.spectra[:9])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a kind of manifest to its page's file, rendered once."""
    folder = tmp_path_factory.mktemp("reports")

    def rendered(kind: str) -> Path:
        file = folder / f"{kind}.html"
        if not file.exists():
            file.write_text(render(MAKERS[kind]()), encoding="utf-8")
        return file

    return rendered


@pytest.mark.parametrize(("kind", "width", "scheme"), LOOKS)
def test_the_report_looks_right(opened: Any, report: Callable[[str], Path], kind: str, width: int, scheme: str) -> None:
    with opened(report(kind).as_uri(), width, scheme) as page:
        assert page.locator("h1 strong").is_visible()
        assert page.locator("h1 strong").inner_text() == HEADLINES[kind]
        _check_figures(page, width)
        assert _lightness(page) == scheme


def _check_figures(page: Any, width: int) -> None:
    figures = page.locator("figure").all()
    assert figures
    for figure in figures:
        shown = [svg for svg in figure.locator("svg").all() if svg.is_visible()]
        assert len(shown) == 1
        box = shown[0].bounding_box()
        assert box["width"] > 0.6 * min(width - 40, 420)
        assert box["height"] > 40
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert shown[0].locator("text").first.is_visible()


def _lightness(page: Any) -> str:
    """Light or dark, by the paper and by the ink of the page and of its figures, which must differ."""
    colours: dict[str, str] = page.evaluate(
        """() => ({
            paper: getComputedStyle(document.body).backgroundColor,
            ink: getComputedStyle(document.body).color,
            figure: getComputedStyle(document.querySelector("figure svg text")).fill,
        })"""
    )
    bright = {
        name: sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) > 3 * 128
        for name, colour in colours.items()
    }
    assert bright["ink"] != bright["paper"]
    return "light" if bright["paper"] else "dark"


@pytest.mark.parametrize("width", [390, 1280])
def test_options_unfold_within_the_window(browser: Any, report: Callable[[str], Path], width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    try:
        page.goto(report("mixed").as_uri())
        table = page.locator("details.all details table").first
        assert not table.is_visible()
        page.locator("details.all > summary").click()
        page.locator("details.all details > summary").first.click()
        assert table.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.close()


def test_the_links_lead_to_their_sections(browser: Any, report: Callable[[str], Path]) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    try:
        page.goto(report("mixed").as_uri())
        for link in page.locator("nav a").all():
            link.click()
            assert page.locator(link.get_attribute("href")).is_visible()
    finally:
        page.close()
