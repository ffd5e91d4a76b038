"""The page at /docs in a real browser: complete, quiet, from nowhere else, and never wider than its window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.serve.server import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("demo") as running:
        yield running


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_the_docs_look_right(browser: Any, server: Server, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    try:
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        address = f"{server.url}/docs"
        page.goto(address)
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [address]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        told = page.locator("body").inner_text()
        for expected in ("/v2/models/{model}/infer", "/predict", "demo"):
            assert expected in told
    finally:
        page.close()
