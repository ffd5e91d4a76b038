"""`python -m ranksmith.serve.frontend NUMBER HOST PORT PARENT`: started by the supervisor, with a socket to it as
standard input.

Listens beside the other front ends (SO_REUSEPORT); ends, after answering what it admitted, on SIGTERM.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn
import uvloop

from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.frontend.http import Limits, make_app
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.messages import Routing, loads
from ranksmith.serve.process import begin
from ranksmith.serve.transport import Link, adopt

_GRACE_S = 30


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((host, port))
    return found


async def _serve(host: str, port: int) -> None:
    pool = Pool()
    config = uvicorn.Config(
        make_app(pool, Limits()),
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
    )
    server = uvicorn.Server(config)

    def told(link: Link, frame: Frame) -> None:
        if frame.kind is Kind.CONTROL:
            pool.route(loads(frame.meta, Routing))

    def alone(link: Link, error: Exception | None) -> None:
        server.should_exit = True

    control = await adopt(socket.socket(fileno=sys.stdin.fileno()), on_frame=told, on_lost=alone)
    listening = _listening(host, port)

    async def tell_when_up() -> None:
        while not server.started:
            await asyncio.sleep(0.005)
        control.send(Frame(Kind.HELLO))

    up = asyncio.ensure_future(tell_when_up())
    await server.serve(sockets=[listening])
    await up


def main() -> None:
    number, host, port, parent = sys.argv[1:]
    begin(f"frontend {number}", int(parent))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(host, int(port)))


if __name__ == "__main__":
    main()
