from __future__ import annotations

import os
from pathlib import Path

import pytest

import ranksmith


def test_the_public_names_are_these() -> None:
    assert ranksmith.__all__ == [
        "Manifest",
        "RankPlan",
        "RanksmithError",
        "__version__",
        "bench",
        "compare",
        "compress",
        "evaluate",
        "fold",
        "load",
        "open_session",
        "save",
    ]


@pytest.mark.parametrize("name", ranksmith.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(ranksmith, name) is not None
    assert name in dir(ranksmith)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ranksmith.nonsense  # type: ignore[attr-defined]


def test_the_package_under_test_is_the_installed_wheel() -> None:
    if os.environ.get("RANKSMITH_TEST_WHEEL") != "1":
        pytest.skip("only `make test` tests the wheel")
    assert "site-packages" in Path(ranksmith.__file__).parts
