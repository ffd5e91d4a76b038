"""Write docs/reference/cli.md from the command line itself; with --check, fail where the file is not current."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from ranksmith.cli.app import app

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"

HEADER = """\
# Command line

Written by `make reference` from the command line itself; do not edit.

Results go to stdout, progress and logs to stderr. Every verb also takes `-v/--verbose` (show tracebacks of errors),
`-q/--quiet` (only warnings, errors and the result) and `-h/--help`.
"""

COMMON = {"verbose", "quiet", "help"}


def reference() -> str:
    """The whole document."""
    commands: dict[str, Any] = typer.main.get_group(app).commands
    return "\n".join([HEADER, *(_verb(name, command) for name, command in commands.items())])


def _verb(name: str, command: Any) -> str:
    parameters = [parameter for parameter in command.params if parameter.name not in COMMON]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    words = ["ranksmith", name, *(_usage(parameter) for parameter in [*arguments, *options]), "[OPTIONS]"]
    usage = " ".join(word for word in words if word)
    lines = [f"## {name}\n", f"```\n{usage}\n```\n", _paragraphs(command.help), "| | |", "|---|---|"]
    lines += [f"| `{_cell(argument.metavar)}` | {_cell(argument.help)} |" for argument in arguments]
    lines += [f"| {_names(option)} | {_cell(option.help)}{_default(option)} |" for option in options]
    return "\n".join([*lines, ""])


def _usage(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        text = parameter.metavar
        return text if parameter.required else f"[{text}]"
    return f"{parameter.opts[0]} {_value(parameter)}" if parameter.required else ""


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {_value(option)}"
    return f"`{_cell(', '.join([*option.opts, *option.secondary_opts]) + value)}`"


def _value(option: Any) -> str:
    return str(option.metavar or option.name.upper())


def _default(option: Any) -> str:
    if option.required:
        return " Required."
    if option.is_flag and option.secondary_opts:
        return f" Default: `{(option.opts if option.default else option.secondary_opts)[0]}`."
    if option.is_flag or option.default in (None, (), []):
        return ""
    return f" Default: `{_cell(str(option.default))}`."


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def _paragraphs(text: str | None) -> str:
    return (text or "").strip() + "\n"


def main() -> int:
    """Write the reference, or check it; the exit code."""
    text = reference()
    if "--check" in sys.argv[1:]:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"error: {TARGET} is not current\nhint: make reference\n")
        return 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
