"""`python -m ranksmith.serve.worker SPEC`: started by the supervisor, with a socket to it as standard input.

Loads the model, warms it up, listens, and says so; ends when the supervisor's end of the socket is closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop

from ranksmith.errors import RanksmithError
from ranksmith.serve import logs
from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.listener import listen
from ranksmith.serve.messages import Failure, WorkerSpec, dumps, loads
from ranksmith.serve.process import begin, settle
from ranksmith.serve.transport import adopt

_NICE = 2


async def _serve(spec: WorkerSpec, path: Path) -> int:
    over = asyncio.Event()
    # SIGTERM and SIGINT reach the whole group; when to end is the supervisor's to say.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    control = await adopt(
        socket.socket(fileno=sys.stdin.fileno()),
        on_frame=lambda link, frame: None,
        on_lost=lambda link, error: over.set(),
    )
    try:
        loop = await asyncio.to_thread(_load, spec)
    except RanksmithError as error:
        failure = Failure(code="internal", message=error.message, hint=error.hint)
        control.send(Frame(Kind.FAILURE, meta=dumps(failure)))
        await control.drain()
        return 1
    loop.start()
    settle()
    server = await listen(path, on_link=loop.on_link, on_frame=loop.on_frame, on_lost=loop.on_lost)
    control.send(Frame(Kind.HELLO, generation=spec.generation, meta=dumps(loop.model.hello)))
    await over.wait()
    server.close()
    return 0


def _load(spec: WorkerSpec) -> WorkerLoop:
    if spec.is_checked:
        check_file(Path(spec.model))
    model = ServedModel.open(spec)
    model.warm()
    if spec.golden is not None:
        check_golden(model, Path(spec.golden))
    return WorkerLoop(model)


def main() -> None:
    spec, path, parent = sys.argv[1:]
    known = loads(spec.encode(), WorkerSpec)
    logs.configure()
    begin(f"worker {known.name} generation {known.generation}", int(parent))
    # Front ends first: what has to be refused is refused at once, and what is answered leaves, while sessions run.
    os.nice(_NICE)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_serve(known, Path(path))))


if __name__ == "__main__":
    # The title is set before these, which take most of a second to import.
    from ranksmith.serve.worker.check import check_file, check_golden
    from ranksmith.serve.worker.loop import WorkerLoop
    from ranksmith.serve.worker.model import ServedModel

    main()
