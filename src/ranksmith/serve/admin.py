"""The admin socket: how `deploy`, `rollback` and `status` talk to a running server. Never on a public port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from ranksmith.errors import RanksmithError, UsageError
from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.listener import Listener, listen
from ranksmith.serve.messages import AdminReply, AdminRequest, Failure, dumps
from ranksmith.serve.tasks import Tasks
from ranksmith.serve.transport import Link, LinkClosedError, connect

__all__ = ["ask", "serve_admin"]

_REQUEST = msgspec.json.Decoder(AdminRequest)
_REPLY: msgspec.json.Decoder[AdminReply] = msgspec.json.Decoder(AdminReply)

Handler = Callable[[AdminRequest], Awaitable[AdminReply]]


async def serve_admin(path: Path, handle: Handler) -> Listener:
    """Answer requests at `path`, which only this user can reach; one after the other.

    Raises:
        UsageError: another server answers there.
    """
    turn = asyncio.Lock()
    tasks = Tasks()

    def on_frame(link: Link, frame: Frame) -> None:
        tasks.start(answer(link, _REQUEST.decode(frame.meta)))

    async def answer(link: Link, request: AdminRequest) -> None:
        async with turn:
            try:
                reply = await handle(request)
            except RanksmithError as error:
                reply = Failure(code="invalid", message=error.message, hint=error.hint)
        try:
            link.send(Frame(Kind.RESULT, meta=dumps(reply)))
        except LinkClosedError:
            # Who asked has gone; what was done is in the receipt.
            return

    try:
        return await listen(path, on_link=lambda link: None, on_frame=on_frame, on_lost=lambda link, error: None)
    except OSError as error:
        raise UsageError(
            f"{path.parent}: another server uses this state directory", hint="give this one its own with --state-dir"
        ) from error


async def ask(path: Path, request: AdminRequest) -> AdminReply:
    """What the server says.

    Raises:
        UsageError: no server answers there.
    """
    replied: asyncio.Future[AdminReply] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    def on_frame(link: Link, frame: Frame) -> None:
        if not replied.done():
            replied.set_result(_REPLY.decode(frame.meta))

    def on_lost(link: Link, error: Exception | None) -> None:
        over.set()
        if not replied.done():
            replied.set_exception(UsageError("the server ended before it answered"))

    try:
        link = await connect(path, on_frame=on_frame, on_lost=on_lost)
    except OSError as error:
        raise UsageError(
            f"{path.parent}: no server runs with this state directory",
            hint="`ranksmith serve` starts one; --state-dir says which of several",
        ) from error
    link.send(Frame(Kind.CONTROL, meta=dumps(request)))
    try:
        return await replied
    finally:
        link.close()
        await over.wait()
