"""`python -m ranksmith.serve.frontend NUMBER HOST HTTP_PORT GRPC_PORT FOLDER [DESCRIPTOR] PARENT`: started by the
supervisor, with a socket to it as standard input; the front ends keep what they count in FOLDER.

Listens beside the other front ends (SO_REUSEPORT), and accepts with them from the Unix socket whose descriptor it is
given; ends, after answering what it admitted, on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from ranksmith.serve import logs
from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.frontend.grpc import GrpcServer, start_grpc
from ranksmith.serve.frontend.http import make_http
from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.shared import SharedCounts
from ranksmith.serve.frontend.statistics import Statistics
from ranksmith.serve.messages import Drained, Routing, dumps, loads
from ranksmith.serve.ports import address_of, bound
from ranksmith.serve.process import begin, settle
from ranksmith.serve.transport import Link, LinkClosedError, adopt

_GRACE_S = 30
_LOOK_S = 0.02
_LAST_WORDS_S = 0.2
_ACQUAINT_S = 2.0
_ACCEPT_PASSES = 100


class _Server(uvicorn.Server):
    """HTTP, and gRPC that ends with it: within `shutdown`, after which uvicorn raises the signal anew.

    Attributes:
        grpc: set before `serve`.
    """

    grpc: GrpcServer

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in sockets or []:
            # Until none came while the last ones were taken: then the socket can be closed.
            for _ in range(_ACCEPT_PASSES):
                if not await self._accept_waiting(listening):
                    break
        for server in self.servers:
            server.close()
        # uvicorn closes what is idle: who was accepted last is to be read first.
        await asyncio.sleep(_LAST_WORDS_S)
        await asyncio.gather(super().shutdown(sockets), self.grpc.stop(_GRACE_S))

    async def _accept_waiting(self, listening: socket.socket) -> int:
        """Take the connections that the kernel has made for us, as closing the socket would reset them; how many."""
        listening.setblocking(False)
        taken = []
        with contextlib.suppress(BlockingIOError):
            while True:
                taken.append(listening.accept()[0])
        for connected in taken:
            connected.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connected)
        return len(taken)

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes them."""
        kind: Any = self.config.http_protocol_class
        made: asyncio.Protocol = kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        return made


async def _acquainted(pool: Pool) -> None:
    """Wait for the models and a worker of each, so that nobody is told that there are none.

    Not for long: where no worker lives, that is to be told.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ACQUAINT_S):
            while not pool.is_all_ready:
                await asyncio.sleep(_LOOK_S)


async def _tell_drained(pool: Pool, control: Link) -> None:
    """Tell the supervisor, each time that workers come or go, when only requests of active generations are held."""
    while not control.is_closed:
        await pool.routed.wait()
        pool.routed.clear()
        while (drained := pool.drained) is None:
            await asyncio.sleep(_LOOK_S)
        try:
            control.send(Frame(Kind.CONTROL, meta=dumps(Drained(active=drained))))
        except LinkClosedError:
            return


async def _serve(host: str, http_port: int, grpc_port: int, folder: Path, shared: Sequence[socket.socket]) -> None:
    counts = SharedCounts(folder)
    pool, limits, statistics = Pool(counts=counts), Limits(), Statistics(counts)
    app, http = make_http(pool, limits, statistics)
    config = uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="off",
        access_log=False,
        # A malformed request is the client's matter, and every one would be a line.
        log_level="error",
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
    )
    server = _Server(config)

    def told(link: Link, frame: Frame) -> None:
        statistics.routing = routing = loads(frame.meta, Routing)
        pool.route(routing)

    def alone(link: Link, error: Exception | None) -> None:
        server.should_exit = True

    control = await adopt(socket.socket(fileno=sys.stdin.fileno()), on_frame=told, on_lost=alone)
    await _acquainted(pool)
    settle()
    server.grpc = await start_grpc(
        pool,
        address_of(host, grpc_port),
        deadline_s=limits.deadline_s,
        most_bytes=limits.body_bytes,
        statistics=statistics,
    )
    listening = bound(host, http_port)

    async def tell_when_up() -> None:
        while not server.started:
            await asyncio.sleep(_LOOK_S)
        control.send(Frame(Kind.HELLO))
        await _tell_drained(pool, control)

    telling = asyncio.ensure_future(tell_when_up())
    await server.serve(sockets=[listening, *shared])
    telling.cancel()


def main() -> None:
    number, host, http_port, grpc_port, folder, *descriptors, parent = sys.argv[1:]
    begin(f"frontend {number}", int(parent))
    logs.configure()
    shared = [socket.socket(fileno=int(descriptor)) for descriptor in descriptors]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(host, int(http_port), int(grpc_port), Path(folder), shared))


if __name__ == "__main__":
    main()
