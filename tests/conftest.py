"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of real models and images, or a skip with the reason."""
    folder = Path(os.environ.get("RANKSMITH_SHARED", ROOT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no real models: {folder} is absent (set RANKSMITH_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, and none reaches the real model zoo."""
    monkeypatch.setenv("RANKSMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("RANKSMITH_ZOO_URL", "http://127.0.0.1:9/nowhere")
