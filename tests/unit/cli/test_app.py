"""How the command line starts, and how it tells what went wrong. Verbs are stood in for by plain functions."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import typer

from ranksmith import __version__
from ranksmith.cli import app as cli
from ranksmith.cli import output
from ranksmith.errors import GateError, ModelError, NodeNotFoundError, RanksmithError, UsageError

Run = Callable[..., int]


@pytest.fixture
def run_verb(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a function as if it were the verb `stand-in`."""

    def run(verb: Callable[..., None], *arguments: str) -> int:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.callback()(cli._root)
        app.command(name="stand-in")(cli._with_verbosity(verb))
        monkeypatch.setattr(cli, "app", app)
        return cli.run(["stand-in", *arguments])

    return run


def raiser(error: BaseException) -> Callable[[], None]:
    def verb() -> None:
        raise error

    return verb


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"ranksmith {__version__}\n"


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    verbs = "fetch inspect fold expose spectrum sweep decompose quantize compress compare evaluate bench report doctor"
    for verb in verbs.split():
        assert f"\n  {verb} " in shown


def test_no_arguments_is_a_usage_error_that_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    assert "Usage: ranksmith" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command"),
        (["fetch", "--nonsense"], "--nonsense"),
        (["compress", "demo"], "--output"),
        (["compress", "demo", "-o", "x", "--seed", "soon"], "--seed"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_a_hint(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    error, hint = printed.err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert hint.startswith("hint: `ranksmith")


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (ModelError("a.onnx: truncated", hint="copy it again"), 1, ["error: a.onnx: truncated", "hint: copy it again"]),
        (RanksmithError("no hint"), 1, ["error: no hint"]),
        (UsageError("[not] markup"), 2, ["error: [not] markup"]),
        (NodeNotFoundError("cnv", ["conv"]), 2, ["error: no node named 'cnv' in the model", "hint: nearest: conv"]),
        (GateError("not faster"), 3, ["error: not faster"]),
        (
            MemoryError(),
            1,
            ["error: out of memory", "hint: a smaller --batch or fewer --images needs less"],
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/x"),
            1,
            ["error: /tmp/x: the disk is full", "hint: free some space and run again"],
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            ["error: cannot write: the disk is full", "hint: free some space and run again"],
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 1, ["error: /root/x: Permission denied"]),
        (
            ValueError("surprise\nwith details"),
            70,
            [
                "ranksmith: a bug of ours: ValueError: surprise",
                "hint: run it again with -v for the traceback, and report it",
            ],
        ),
        (
            AssertionError(),
            70,
            [
                "ranksmith: a bug of ours: AssertionError",
                "hint: run it again with -v for the traceback, and report it",
            ],
        ),
        (
            KeyboardInterrupt(),
            130,
            ["interrupted: nothing half-written is left; what was cached is reused by the next run"],
        ),
    ],
)
def test_what_goes_wrong_is_told_in_plain_lines(
    run_verb: Run, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, lines: list[str]
) -> None:
    assert run_verb(raiser(error)) == code
    printed = capsys.readouterr()
    assert printed.err.splitlines() == lines
    assert printed.out == ""


def test_verbose_shows_the_traceback(run_verb: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(raiser(ModelError("bad")), "-v") == 1
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("error: bad\n")


def test_a_long_line_is_not_wrapped(run_verb: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run_verb(raiser(ModelError("word " * 100)))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_verbosity_is_of_one_run(run_verb: Run) -> None:
    seen: list[bool] = []

    def verb() -> None:
        seen.append(output.verbosity.quiet)

    assert run_verb(verb, "-q") == 0
    assert run_verb(verb) == 0
    assert seen == [True, False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_once_and_its_repeat_does_not_cut_the_clean_up_short(
    run_verb: Run, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    cleaned: list[str] = []

    def verb() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            cleaned.append("up")

    # Under nohup it would be ignored, and stay so.
    given = signal.signal(number, signal.SIG_DFL)
    try:
        assert run_verb(verb) == 130
        assert cleaned == ["up"]
        assert capsys.readouterr().err.startswith("interrupted: ")
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, given)


def test_a_signal_that_was_ignored_stays_ignored(run_verb: Run) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_verb(lambda: signal.raise_signal(signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_runs_outside_the_main_thread(run_verb: Run) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_verb(lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize(
    "verb",
    [
        lambda: output.show("x" * 100_000),
        lambda: output.print_json(["x" * 100_000]),
        lambda: output.print_json(["waits in the buffer"]),
    ],
)
def test_a_reader_that_goes_away_is_no_error(
    run_verb: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: Callable[[], None]
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run_verb(verb) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_nothing_heavy_is_imported_for_help() -> None:
    heavy = ("numpy", "onnx", "onnx_ir", "onnxruntime", "scipy", "matplotlib", "PIL", "jinja2", "openvino")
    script = f"""
import sys
from ranksmith.cli.app import run
assert run(["--help"]) == 0
assert run(["compress", "--help"]) == 0
import ranksmith
print("LOADED", [name for name in {heavy!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    assert "--max-drop" in done.stdout
