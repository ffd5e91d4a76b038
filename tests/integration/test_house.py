"""The house is in order: what is written about the command line is what the command line is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import typer

import ranksmith
from ranksmith.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
VERBS = list(typer.main.get_group(app).commands)  # type: ignore[attr-defined]


def test_the_cli_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "cli_reference.py", "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_tells_of_every_verb_and_no_other() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## The verbs")[1].split("## Data")[0]
    assert re.findall(r"^\| (?:\*\*)?`(\w+)", table, re.MULTILINE) == VERBS


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_the_version_is_said_in_one_place_and_in_the_changelog() -> None:
    assert metadata.version("ranksmith") == ranksmith.__version__
    assert f"## [{ranksmith.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project
    assert set(project["optional-dependencies"]) == {"dev", "openvino", "peers", "ray", "train"}


def test_the_installed_package_is_typed_and_has_its_demo() -> None:
    package = resources.files("ranksmith")
    assert (package / "py.typed").is_file()
    with resources.as_file(package / "demo" / "demo.onnx") as model:
        assert 0 < model.stat().st_size <= 4 * 2**20


def test_the_ci_entry_runs_what_it_should() -> None:
    entry = ROOT / ".ci" / "run"
    assert os.access(entry, os.X_OK)
    assert "make check test" in entry.read_text(encoding="utf-8")
