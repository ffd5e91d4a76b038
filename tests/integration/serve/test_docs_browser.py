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
def test_the_docs_look_right(opened: Any, server: Server, width: int, scheme: str) -> None:
    with opened(f"{server.url}/docs", width, scheme) as page:
        told = page.locator("body").inner_text()
    for expected in ("/v2/models/{model}/infer", "/predict", "demo"):
        assert expected in told
