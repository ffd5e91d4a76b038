"""The environment and preprocessing files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranksmith import config
from ranksmith.errors import DataError


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANKSMITH_CACHE", str(tmp_path / "here"))
    assert config.cache_dir() == tmp_path / "here"


def test_without_a_setting_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKSMITH_CACHE")
    assert config.cache_dir().name == "ranksmith"


def test_the_zoo_url_has_no_slash_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSMITH_ZOO_URL", "http://mirror.example/zoo/")
    assert config.zoo_url() == "http://mirror.example/zoo"
    monkeypatch.delenv("RANKSMITH_ZOO_URL")
    assert config.zoo_url() == config.ZOO_URL


def test_preprocessing_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('size = 96\nresize_shorter = 112\nmean = [1, 2, 3.5]\nchannels = "BGR"\n')
    read = config.read_preprocess(path)
    assert (read.name, read.size, read.resize_shorter) == ("mine", (96, 96), 112)
    assert (read.mean, read.std, read.channels) == ((1.0, 2.0, 3.5), (1.0, 1.0, 1.0), "BGR")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("size = [8, 8]\nmaen = [1, 2, 3]", "unknown key 'maen'"),
        ("resize_shorter = 8", "size"),
        ('size = "large"', "size"),
        ("size = [8, 8]\nmean = [1, 2]", "mean"),
        ('size = [8, 8]\ninterpolation = "cubic"', "interpolation"),
        ("size = [0, 8]", "size must be"),
        ("size = 8\nresize_shorter = 0", "resize_shorter must be"),
        ("size = 8\nstd = [1, 0, 1]", "std must be"),
        ("size = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_preprocessing_file_is_told_by_key(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=named) as caught:
        config.read_preprocess(path)
    assert str(path) in caught.value.message


def test_an_absent_preprocessing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        config.read_preprocess(tmp_path / "absent.toml")
