"""Start workers and front ends, start again what dies, and end all of it in order.

start:  workers load and warm up; when every model has one, the front ends open the port
end:    the front ends stop accepting and answer what they admitted; then the workers go
"""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import setproctitle
import structlog

from ranksmith.errors import ModelError, UsageError
from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.messages import Failure, Hello, Routing, WorkerAt, WorkerSpec, dumps, loads
from ranksmith.serve.supervisor.children import Child
from ranksmith.serve.supervisor.restarts import Restarts

__all__ = ["Options", "Supervisor"]

_GRACE_S = 40.0
_LEAVE_S = 5.0


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        http_port: 0: any that is free.
        workers: processes per model.
        frontends: processes that share the port.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    workers: int = 1
    frontends: int = 1


@dataclass(eq=False)
class _Place:
    """Where one process runs, and is started again."""

    restarts: Restarts = field(default_factory=Restarts)
    child: Child | None = None
    started_s: float = 0.0
    is_ready: bool = False
    is_hopeless: bool = False


@dataclass(eq=False)
class _WorkerPlace(_Place):
    spec: WorkerSpec | None = None
    at: WorkerAt | None = None
    hello: Hello | None = None
    refused: str | None = None


class Supervisor:
    """The server. `run` does everything.

    Args:
        specs: the models, one each.
    """

    def __init__(self, specs: Sequence[WorkerSpec], options: Options) -> None:
        self._specs = list(specs)
        self._options = options
        self._log = structlog.get_logger("ranksmith.supervisor")
        self._workers = [_WorkerPlace(spec=spec) for spec in self._specs for _ in range(options.workers)]
        self._frontends = [_Place() for _ in range(options.frontends)]
        self._ids = 0
        self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; returns when everything that was admitted has been answered.

        Raises:
            ModelError: a model cannot be loaded.
            UsageError: the port is taken.
        """
        setproctitle.setproctitle("ranksmith supervisor")
        self._changed = asyncio.Event()
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, over.set)
        with _reserved(self._options.host, self._options.http_port) as reserved, _directory() as folder:
            self._folder = Path(folder)
            self._port = reserved.getsockname()[1]
            try:
                for place in self._workers:
                    await self._start_worker(place)
                if await self._until(lambda: all(place.is_ready for place in self._workers), over):
                    for number, front in enumerate(self._frontends):
                        await self._start_frontend(number, front)
                    if await self._until(lambda: all(front.is_ready for front in self._frontends), over):
                        self._announce()
                        await over.wait()
            finally:
                await self._end()

    def _announce(self) -> None:
        for place in self._workers:
            for note in place.hello.notes if place.hello else []:
                self._log.warning(note, model=place.spec.name if place.spec else None)
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        self._log.info(
            "serving",
            models=sorted({spec.name for spec in self._specs}),
            http=f"http://{host}:{self._port}",
            workers=len(self._workers),
        )

    async def _until(self, condition, over: asyncio.Event) -> bool:  # type: ignore[no-untyped-def]
        """Whether the condition came true before the end was asked for."""
        ending = asyncio.ensure_future(over.wait())
        try:
            while not condition():
                if refused := next((place.refused for place in self._workers if place.refused), None):
                    raise ModelError(refused)
                if hopeless := next((place.at for place in self._workers if place.is_hopeless), None):
                    raise ModelError(f"{hopeless.name}: the worker dies again and again before it is ready")
                self._changed.clear()
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait([changed, ending], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if over.is_set():
                    return False
            return True
        finally:
            ending.cancel()

    async def _start_worker(self, place: _WorkerPlace) -> None:
        spec = place.spec
        assert spec is not None
        self._ids += 1
        path = self._folder / f"worker-{self._ids}.sock"
        at = WorkerAt(worker=self._ids, name=spec.name, generation=spec.generation, path=str(path))
        place.at, place.is_ready, place.started_s = at, False, time.monotonic()

        def told(frame: Frame) -> None:
            if frame.kind is Kind.HELLO:
                place.is_ready, place.hello = True, loads(frame.meta, Hello)
                took_s = round(time.monotonic() - place.started_s, 3)
                self._log.info("worker ready", model=spec.name, worker=at.worker, took_s=took_s)
                self._route()
            elif frame.kind is Kind.FAILURE:
                place.refused = loads(frame.meta, Failure).message
            self._changed.set()

        place.child = await Child.start(
            "ranksmith.serve.worker",
            [dumps(spec).decode(), str(path)],
            on_frame=told,
            on_exit=lambda status: self._worker_exited(place, status),
        )

    def _worker_exited(self, place: _WorkerPlace, status: int) -> None:
        was_ready, place.is_ready, place.child = place.is_ready, False, None
        assert place.at is not None
        Path(place.at.path).unlink(missing_ok=True)
        self._changed.set()
        if self._ending or place.refused:
            return
        self._route()
        wait_s = place.restarts.after(time.monotonic() - place.started_s, was_ready=was_ready)
        self._log.warning(
            "worker died", model=place.at.name, worker=place.at.worker, status=_told(status), again_in_s=wait_s
        )
        place.is_hopeless = wait_s is None
        if wait_s is not None:
            self._later(wait_s, lambda: self._start_worker(place))

    async def _start_frontend(self, number: int, place: _Place) -> None:
        place.is_ready, place.started_s = False, time.monotonic()

        def told(frame: Frame) -> None:
            place.is_ready = True
            self._changed.set()

        place.child = await Child.start(
            "ranksmith.serve.frontend",
            [str(number), self._options.host, str(self._port)],
            on_frame=told,
            on_exit=lambda status: self._frontend_exited(number, place, status),
        )
        self._route()

    def _frontend_exited(self, number: int, place: _Place, status: int) -> None:
        was_ready, place.is_ready, place.child = place.is_ready, False, None
        self._changed.set()
        if self._ending:
            return
        wait_s = place.restarts.after(time.monotonic() - place.started_s, was_ready=was_ready)
        self._log.warning("front end died", frontend=number, status=_told(status), again_in_s=wait_s)
        if wait_s is not None:
            self._later(wait_s, lambda: self._start_frontend(number, place))

    def _route(self) -> None:
        """Tell every front end which workers there are."""
        routing = Routing(
            workers=[place.at for place in self._workers if place.is_ready and place.at],
            active={spec.name: spec.generation for spec in self._specs},
        )
        for place in self._frontends:
            if place.child is not None:
                place.child.tell(Frame(Kind.CONTROL, meta=dumps(routing)))

    def _later(self, wait_s: float, start) -> None:  # type: ignore[no-untyped-def]
        async def wait() -> None:
            await asyncio.sleep(wait_s)
            if not self._ending:
                await start()

        task = asyncio.ensure_future(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        """Front ends first: the workers must live until the last admitted request is answered."""
        self._ending = True
        for task in list(self._tasks):
            task.cancel()
        fronts = [place.child for place in self._frontends if place.child]
        for child in fronts:
            child.terminate()
        await _gone(fronts, _GRACE_S)
        workers = [place.child for place in self._workers if place.child]
        for child in workers:
            # The end of the socket is what a worker takes for the end.
            child.link.close()
        await _gone(workers, _LEAVE_S)
        self._log.info("ended")


async def _gone(children: Sequence[Child], within_s: float) -> None:
    """Wait for the children to end, and kill those that do not."""
    if not children:
        return
    try:
        async with asyncio.timeout(within_s):
            for child in children:
                await child.exited.wait()
    except TimeoutError:
        for child in children:
            child.kill()
        for child in children:
            await child.exited.wait()


def _reserved(host: str, port: int) -> socket.socket:
    """The port, bound and not listened on, so that it stays ours while front ends come and go.

    Raises:
        UsageError: it is taken, or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Another server of ours would share the port with us, and take half of the requests.
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror}", hint="choose another with --http-port"
        ) from error
    return found


def _directory() -> tempfile.TemporaryDirectory[str]:
    """For the sockets; mode 0700."""
    return tempfile.TemporaryDirectory(prefix="ranksmith-", ignore_cleanup_errors=True)


def _told(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit code {status}"
