"""What `deploy`, `rollback` and `status` share: asking a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ranksmith.errors import RanksmithError, UsageError

if TYPE_CHECKING:
    from ranksmith.serve.messages import AdminRequest, Receipt, StatusReply

__all__ = ["ModelOption", "StateDirOption", "ask_server", "state_dir"]

StateDirOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="Of the server: what is active, its receipts, its admin socket; by default the user's state directory.",
        show_default=False,
    ),
]

ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Which of several models.", show_default=False),
]


def state_dir(asked: Path | None) -> Path:
    """The directory that was asked for, or the default one."""
    import platformdirs

    return (asked or platformdirs.user_state_path("ranksmith") / "serve").resolve()


def ask_server(directory: Path | None, request: AdminRequest) -> Receipt | StatusReply:
    """What the server of this state directory answers.

    Raises:
        UsageError: no server runs there.
        RanksmithError: it refuses, and says why.
    """
    import asyncio

    from ranksmith.serve.admin import ask
    from ranksmith.serve.messages import Failure

    folder = state_dir(directory)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no server runs with this state directory", hint="`ranksmith serve` starts one")
    reply = asyncio.run(ask(folder / "admin.sock", request))
    if isinstance(reply, Failure):
        raise RanksmithError(reply.message, hint=reply.hint)
    return reply
