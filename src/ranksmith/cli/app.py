"""`ranksmith VERB`: the verbs, and how what goes wrong is told.

| code | meaning                                                          |
|------|------------------------------------------------------------------|
| 0    | done                                                             |
| 1    | an expected failure: `error: …`, and `hint: …` on its own line   |
| 2    | usage                                                            |
| 3    | a gate was missed (accuracy, or not faster)                      |
| 70   | a bug of ours                                                    |
| 130  | interrupted                                                      |

Verb modules import only what their signatures need; the heavy imports stand inside the functions, so that
`--help` answers at once.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import Parameter, Signature, signature
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from ranksmith._version import __version__
from ranksmith.cli import output
from ranksmith.cli.verb_bench import bench
from ranksmith.cli.verb_compare import compare
from ranksmith.cli.verb_compress import compress
from ranksmith.cli.verb_decompose import decompose
from ranksmith.cli.verb_deploy import deploy
from ranksmith.cli.verb_doctor import doctor
from ranksmith.cli.verb_evaluate import evaluate
from ranksmith.cli.verb_expose import expose
from ranksmith.cli.verb_fetch import fetch
from ranksmith.cli.verb_fold import fold
from ranksmith.cli.verb_inspect import inspect
from ranksmith.cli.verb_quantize import quantize
from ranksmith.cli.verb_report import report
from ranksmith.cli.verb_rollback import rollback
from ranksmith.cli.verb_serve import serve
from ranksmith.cli.verb_spectrum import spectrum
from ranksmith.cli.verb_status import status
from ranksmith.cli.verb_sweep import sweep
from ranksmith.errors import RanksmithError

__all__ = ["app", "main", "run"]

_REPEATED_SIGNAL_S = 2.0
"""A second signal within this time is the same wish: the first one's clean-up is under way."""

app = typer.Typer(
    name="ranksmith",
    add_completion=False,
    no_args_is_help=True,
    # Plain help: `A:B[:S]` in a docstring is not markup, and Rich's help alone would take 0.15 s to import.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"ranksmith {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Make an ONNX vision model faster on the machine it will run on, and prove it."""


def _with_verbosity(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with `-v` and `-q` added to its options."""
    extra = {
        "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")],
        "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Show only warnings, errors and the result.")],
    }

    @functools.wraps(verb)
    def wrapped(*, verbose: bool = False, quiet: bool = False, **arguments: Any) -> None:
        output.verbosity.verbose, output.verbosity.quiet = verbose, quiet
        verb(**arguments)

    parameters = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY)
        for parameter in signature(verb, eval_str=True).parameters.values()
    ]
    parameters += [
        Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in extra.items()
    ]
    # Typer reads both the signature and the annotations.
    wrapped.__dict__["__signature__"] = Signature(parameters)
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


_VERBS: tuple[tuple[Callable[..., None], str], ...] = (
    (fetch, "Download a model of the ONNX Model Zoo."),
    (inspect, "Show a model's Convs and which are candidates."),
    (fold, "Fold BatchNormalization into Conv."),
    (expose, "Make intermediate values outputs."),
    (spectrum, "Show how much energy each rank retains."),
    (sweep, "Show the error of every rank of one layer."),
    (decompose, "Replace Convs by low-rank ones."),
    (quantize, "Bring a model to int8, calibrated on images."),
    (compress, "Make a model faster, prove it, write a bundle."),
    (compare, "Tell how far two models' outputs are apart."),
    (evaluate, "Measure accuracy, latency and throughput."),
    (bench, "Time several models, paired and interleaved."),
    (report, "Rebuild a bundle's report from its manifest."),
    (serve, "Serve models over HTTP, and lose no request."),
    (deploy, "Replace what a running server serves."),
    (rollback, "Go back to what it served before."),
    (status, "Tell what a running server serves."),
    (doctor, "Tell what this machine can do."),
)
for _verb, _summary in _VERBS:
    app.command(name=_verb.__name__, short_help=_summary)(_with_verbosity(_verb))


def main() -> NoReturn:
    """The `ranksmith` command."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; whatever goes wrong is told on stderr."""
    output.verbosity.verbose = output.verbosity.quiet = False
    try:
        with _signals():
            code = typer.main.get_command(app).main(args=arguments, prog_name="ranksmith", standalone_mode=False)
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (BrokenPipeError, SystemExit):  # Rich and Typer turn the one into the other
        return _broken_pipe()
    except Exception as error:
        return _tell(error)
    return _interrupted() if code == 130 else int(code or 0)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind like Ctrl-C, so that every clean-up runs; a repeat does not cut it short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -_REPEATED_SIGNAL_S

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPEATED_SIGNAL_S:
            last = time.monotonic()
            raise KeyboardInterrupt

    # One that is ignored (nohup, a shell's background job) stays ignored.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted() -> int:
    output.line("interrupted", "nothing half-written is left; what was cached is reused by the next run")
    return 130


def _broken_pipe() -> int:
    """The reader of stdout went away (`| head`): no error worth telling."""
    # Python flushes stdout once more at exit: let that go nowhere instead of failing again.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return 1


def _tell(error: Exception) -> int:
    """Say what went wrong in one line, with a hint where there is one; the exit code."""
    if output.verbosity.verbose:
        traceback.print_exception(error)
    message, hint, code = _explain(error)
    if code == 70:
        output.line("ranksmith", message, style="bold red")
    else:
        output.line("error", message, style="bold red")
    if hint:
        output.line("hint", hint, style="bold cyan")
    return code


def _explain(error: Exception) -> tuple[str, str | None, int]:
    """(message, hint, exit code) of an exception that reached the top."""
    if isinstance(error, RanksmithError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        hint = f"`{context.command_path} --help` shows the usage" if context is not None else None
        return _first_line(error.format_message()), hint, error.exit_code
    if isinstance(error, MemoryError):
        return "out of memory", "a smaller --batch or fewer --images needs less", 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'cannot write'}: the disk is full", "free some space and run again", 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", None, 1
    described = f"{type(error).__name__}: {_first_line(str(error))}".removesuffix(": ")
    return f"a bug of ours: {described}", "run it again with -v for the traceback, and report it", 70


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
