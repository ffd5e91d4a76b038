"""What tests in a real browser share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed here")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()


@pytest.fixture
def opened(browser: Any) -> Callable[[str, int, str], AbstractContextManager[Any]]:
    """Opens a page at an address, in a window of a width and in light or dark, and checks what every page of ours is:
    quiet, from nowhere else, and never wider than its window."""

    @contextmanager
    def page_at(address: str, width: int, scheme: str) -> Iterator[Any]:
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        try:
            said: list[str] = []
            asked: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == [address]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            yield page
        finally:
            page.close()

    return page_at
