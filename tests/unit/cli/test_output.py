from __future__ import annotations

import io
import json
import sys

import pytest
from rich.text import Text

from ranksmith.cli import output
from ranksmith.results import Speedup


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def as_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """stderr as a terminal. Not a fixture: pytest puts its own stderr in place when a test starts."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return terminal


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.verbosity, "quiet", True)


def test_a_result_is_one_json_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json(Speedup(ratio=1.5, ci95=(1.4, float("nan"))))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"ratio": 1.5, "ci95": [1.4, None]}
    assert printed.err == ""


def test_stages_are_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = output.make_progress()
    with progress.stage("calibrate [1/2]", 10) as advance:
        advance(10)
    progress.note("a note")
    progress.warn("a warning")
    printed = capsys.readouterr()
    start, end, note, warning = printed.err.splitlines()
    assert start == "calibrate [1/2] …"
    assert end.startswith("calibrate [1/2]: done in ")
    assert (note, warning) == ("a note", "warning: a warning")
    assert printed.out == ""


def test_a_stage_that_fails_is_not_said_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    progress = output.make_progress()
    with pytest.raises(ValueError, match="broken"), progress.stage("calibrate"):
        raise ValueError("broken")
    assert "done" not in capsys.readouterr().err


@pytest.mark.usefixtures("quiet")
def test_quiet_leaves_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    progress = output.make_progress()
    with progress.stage("calibrate", 10) as advance:
        advance(10)
    progress.note("a note")
    progress.warn("a warning")
    assert capsys.readouterr().err == "warning: a warning\n"


def test_on_a_terminal_stages_are_bars_with_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_terminal(monkeypatch)
    progress = output.make_progress()
    with progress.stage("calibrate", 4) as advance:
        advance(2)
        progress.note("half way")
        with progress.stage("inner") as inner:
            inner(1)
        advance(2)
    with progress.stage("again", 1) as advance:
        advance(1)
    shown = terminal.getvalue()
    assert "calibrate" in shown
    assert "4/4" in shown
    assert "left" in shown
    assert "half way" in shown
    assert "again" in shown


def test_colour_is_left_out_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = as_terminal(monkeypatch)
    output.line("error", "coloured", style="bold red")
    assert "\x1b[1;31m" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.truncate(0)
    output.line("error", "plain", style="bold red")
    assert "31m" not in terminal.getvalue()


def test_a_table_in_a_pipe_keeps_long_names_and_reads_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    name = "/layer4/layer4.2/" + "block/" * 15 + "conv[2]"
    rows = [(name, 12, None), (Text("styled", style="bold"), 3, "x")]
    output.show(output.table(("node", "rank", "why"), rows, right=("rank",)))
    shown = capsys.readouterr().out
    assert name in shown
    assert "styled" in shown
    assert "None" not in shown


def test_a_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.show("[bold]" + "long " * 100)
    assert capsys.readouterr().out == "[bold]" + "long " * 100 + "\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (102576593, "102.6 MB"), (5 * 10**12, "5000.0 GB")],
)
def test_bytes_are_told_in_decimal_units(count: int, text: str) -> None:
    assert output.human_bytes(count) == text
