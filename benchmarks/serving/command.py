"""`ranksmith serve` against its peers and against onnxruntime in a loop, on this machine, in one run.

Every answer of every server is held against onnxruntime's own. The client shares the cores with the servers.

Run:  python benchmarks/serving [--model MODEL ...] [--servers ranksmith,mosec] [--quick]
It writes docs/benchmarks/serving.md and .json. The first MODEL is the one of the scenarios overload and kills; swaps
takes the demo. All of it, with two models, takes the better part of an hour.

The peers need an environment of their own, where --peers-python is:

    python3 -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/serving/requirements.txt

Without it, --servers ranksmith measures ours against the bare loop.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

import ranksmith
from benchmarks.serving import page
from benchmarks.serving.bench import Bench
from benchmarks.serving.processes import ENOUGH_IDLE, idle_share
from benchmarks.serving.questions import ask_in_process
from benchmarks.serving.scenarios import alone, arrivals, kills, overload, swaps, throughput
from benchmarks.serving.servers import MAX_BATCH, MAX_WAIT_MS, SERVERS, versions
from ranksmith.runtime.machine import machine
from ranksmith.workflow.source import resolve

__all__ = ["main"]

SCENARIOS = {
    "throughput": throughput.run,
    "arrivals": arrivals.run,
    "alone": alone.run,
    "overload": overload.run,
    "kills": kills.run,
    "swaps": swaps.run,
}
PAGE = Path("docs/benchmarks/serving.md")
PEERS_PYTHON = Path(".venv-peers/bin/python")
ROUNDS, QUICK_ROUNDS = 3, 1
SECONDS, QUICK_SECONDS = 6.0, 1.5
IDLE_S = 2.0


def main() -> int:
    """The exit status: 1 where an answer was wrong or a server did not start."""
    arguments = _parse()
    # Whoever ends us ends the servers, too: by the way out that an exception takes.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    _allow_connections()
    console = Console(highlight=False)
    idle = idle_share(IDLE_S)
    if idle < ENOUGH_IDLE:
        console.print(f"warning: others use {1 - idle:.0%} of the cores: no figure will hold", style="yellow")
    python = {
        name: str(arguments.peers_python if SERVERS[name].is_peer else sys.executable) for name in arguments.servers
    }
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/serving", *sys.argv[1:]]),
        "machine": msgspec.to_builtins(machine()),
        "ranksmith": ranksmith.__version__,
        "versions": _versions(arguments.servers, python),
        "settings": {
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "is_quick": arguments.quick,
            "idle_before": idle,
            "max_batch": MAX_BATCH,
            "max_wait_ms": MAX_WAIT_MS,
        },
        "models": {},
    }
    broken: dict[str, str] = {}
    for number, given in enumerate(arguments.model):
        source = resolve(given)
        bench = Bench(
            model=source.path,
            name=source.name,
            questions=ask_in_process(source.path),
            servers=arguments.servers,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            is_quick=arguments.quick,
            swaps=arguments.swaps,
            python=python,
            console=console,
        )
        # What happens when something dies does not depend on the model: one is enough.
        scenarios = [name for name in arguments.scenarios if number == 0 or name in ("throughput", "arrivals", "alone")]
        told: dict[str, Any] = {"input_bytes": bench.questions.input_bytes}
        result["models"][source.name] = told
        for name in scenarios:
            console.rule(f"{source.name}: {name}")
            told[name] = SCENARIOS[name](bench)
            for table in page.tables(told, name):
                console.print(table)
        broken |= bench.broken
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    arguments.output.write_text(page.markdown(result))
    console.print(f"wrote {arguments.output} and {arguments.output.with_suffix('.json').name}")
    wrong = page.wrong_answers(result)
    for what in [*broken.values(), *([f"{wrong} answers were wrong"] if wrong else [])]:
        console.print(f"error: {what}", style="red")
    return 1 if broken or wrong else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help="an ONNX file, a bundle, or demo (which it is by default)")
    parser.add_argument("--servers", type=_names(SERVERS), default=list(SERVERS), help=f"of {','.join(SERVERS)}")
    parser.add_argument(
        "--scenarios", type=_names(SCENARIOS), default=list(SCENARIOS), help=f"of {','.join(SCENARIOS)}"
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one measurement")
    parser.add_argument("--swaps", type=int, default=10, help="200 show whether memory grows")
    parser.add_argument("--quick", action="store_true", help="whether it works, not how fast")
    parser.add_argument("--peers-python", type=Path, default=PEERS_PYTHON, help="interpreter with the peers")
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    arguments.model = arguments.model or ["demo"]
    arguments.rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    arguments.seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    # Not resolved: what makes it the interpreter of an environment is where it is a link from.
    arguments.peers_python = arguments.peers_python.absolute()
    if any(SERVERS[name].is_peer for name in arguments.servers) and not arguments.peers_python.exists():
        parser.error(f"there is no {arguments.peers_python} with the peers; --help says how to make it")
    return arguments


def _allow_connections() -> None:
    """As many open files as may be, for the load generator and for the servers, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _names(known: dict[str, Any]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        asked = text.split(",")
        if unknown := sorted(set(asked) - set(known)):
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
        return asked

    return names


def _versions(servers: list[str], python: dict[str, str]) -> dict[str, dict[str, str]]:
    return {name: versions(python[name], [SERVERS[name].package, "onnxruntime", "numpy"]) for name in servers}
