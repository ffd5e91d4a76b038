"""Start workers and front ends, start again what dies, swap what is asked for, and end all of it in order.

start:  workers load and warm up; when every model has its own, the front ends open the ports
end:    the front ends stop accepting and answer what they admitted; then the workers go
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import setproctitle
import structlog

from ranksmith.errors import RanksmithError, UsageError
from ranksmith.serve.admin import serve_admin
from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.frontend.shared import settle
from ranksmith.serve.messages import (
    AdminReply,
    AdminRequest,
    Deploy,
    Drained,
    GenerationStatus,
    Receipt,
    Rollback,
    Routing,
    StatusReply,
    SwapOutcome,
    WorkerSpec,
    dumps,
    loads,
)
from ranksmith.serve.supervisor.addresses import reserved
from ranksmith.serve.supervisor.children import Child, describe, gone
from ranksmith.serve.supervisor.generation import Generation
from ranksmith.serve.supervisor.restarts import Restarts
from ranksmith.serve.supervisor.state import Active, State
from ranksmith.serve.supervisor.swap import Swappable, bundle_spec, deploy, rollback
from ranksmith.serve.tasks import Tasks

__all__ = ["Options", "Served", "Supervisor"]

_GRACE_S = 40.0


@dataclass(frozen=True)
class Served:
    """A model as the command line named it."""

    target: str
    spec: WorkerSpec


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        http_port, grpc_port: 0: any that is free.
        workers: processes per model.
        http_uds: path of a Unix socket for HTTP, beside the port.
        frontends: processes that share the addresses.
        rollback_s: how long a generation that was replaced is kept warm.
    """

    state_dir: Path
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    http_uds: Path | None = None
    workers: int = 1
    frontends: int = 1
    rollback_s: float = 60.0


@dataclass(eq=False)
class _Front:
    """Where one front end runs after another.

    Attributes:
        drained: the active generations that it knew of when it held no request of others.
    """

    number: int
    restarts: Restarts = field(default_factory=Restarts)
    child: Child | None = None
    started_s: float = 0.0
    is_ready: bool = False
    drained: dict[str, int] = field(default_factory=dict)


class Supervisor:
    """The server. `run` does everything.

    Args:
        models: one each.
    """

    def __init__(self, models: Sequence[Served], options: Options) -> None:
        self._asked = list(models)
        self._options = options
        self._state = State(options.state_dir)
        self._log = structlog.get_logger("ranksmith.supervisor")
        self._models: dict[str, Swappable] = {}
        self._fronts = [_Front(number) for number in range(options.frontends)]
        self._numbers = itertools.count(1)
        self._ending = False
        self._restarts: Counter[str] = Counter()
        self._swaps: dict[str, dict[SwapOutcome, int]] = {}
        self._tasks = Tasks()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; returns when everything that was admitted has been answered.

        Raises:
            ModelError: a model cannot be loaded.
            UsageError: an address or the state directory is taken.
            OutputError: the state directory cannot be written.
        """
        setproctitle.setproctitle("ranksmith supervisor")
        over = asyncio.Event()
        for ending in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(ending, over.set)
        options = self._options
        self._state.prepare()
        with (
            reserved(options.host, options.http_port, options.grpc_port, options.http_uds) as self._at,
            tempfile.TemporaryDirectory(prefix="ranksmith-", ignore_cleanup_errors=True) as folder,
        ):
            self._folder = Path(folder)
            admin = await serve_admin(self._state.socket, self._administer)
            started = asyncio.ensure_future(self._start())
            ended = asyncio.ensure_future(over.wait())
            try:
                await asyncio.wait([started, ended], return_when=asyncio.FIRST_COMPLETED)
                if started.done():
                    started.result()
                    self._announce()
                    await ended
            finally:
                admin.close()
                await self._end(started, ended)
                await admin.wait_closed()

    async def _start(self) -> None:
        for asked in self._asked:
            await self._load(asked)
        self._persist()
        for front in self._fronts:
            await self._start_front(front)
        while not all(front.is_ready for front in self._fronts):
            self._changed.clear()
            await self._changed.wait()

    async def _load(self, asked: Served) -> None:
        """What was active when the server last ended, or what the command line names."""
        name = asked.spec.name
        known = self._state.active().get(name)
        if known is not None and known.target == asked.target and known.source != asked.target:
            try:
                spec = bundle_spec(Path(known.source), asked.spec, known.generation)
                self._add(asked, await self._generation(spec, known.source))
            except RanksmithError as error:
                self._log.warning("what was active cannot be served", model=name, why=error.message)
            else:
                self._log.info("restored", model=name, generation=known.generation)
                return
        generation = known.generation if known is not None and known.source == asked.target else 1
        spec = asked.spec if generation == 1 else _numbered(asked.spec, generation)
        self._add(asked, await self._generation(spec, asked.target))

    def _add(self, asked: Served, generation: Generation) -> None:
        model = Swappable(asked.spec.name, asked.target, generation, generation.number)
        model.warm[generation.number] = generation
        self._models[asked.spec.name] = model

    async def _generation(self, spec: WorkerSpec, source: str) -> Generation:
        """Started and warm."""
        restarted = partial(self._restarts.update, [spec.name])
        found = Generation(spec, source, self._options.workers, self._folder, self._numbers, self._route, restarted)
        await found.start()
        return found

    def _announce(self) -> None:
        for model in self._models.values():
            for note in model.active.hello.notes if model.active.hello else []:
                self._log.warning(note, model=model.name)
        self._log.info("serving", models=sorted(self._models), **self._at.told, workers=self._options.workers)

    async def _start_front(self, front: _Front) -> None:
        front.is_ready, front.started_s, front.drained = False, time.monotonic(), {}

        def told(frame: Frame) -> None:
            if frame.kind is Kind.HELLO:
                front.is_ready = True
            else:
                front.drained = loads(frame.meta, Drained).active
            self._changed.set()

        front.child = await Child.start(
            "ranksmith.serve.frontend",
            [str(front.number), *self._at.arguments, str(self._folder), *map(str, self._at.descriptors)],
            on_frame=told,
            on_exit=lambda status: self._front_exited(front, status),
            descriptors=self._at.descriptors,
        )
        self._route()

    def _front_exited(self, front: _Front, status: int) -> None:
        assert front.child is not None
        settle(self._folder, front.child.process.pid)
        was_ready, front.is_ready, front.child = front.is_ready, False, None
        self._changed.set()
        if self._ending:
            return
        wait_s = front.restarts.after(time.monotonic() - front.started_s, was_ready=was_ready)
        self._log.warning("front end died", frontend=front.number, status=describe(status), again_in_s=wait_s)
        if wait_s is not None:
            self._later(wait_s, lambda: self._start_front(front))

    def _route(self) -> None:
        """Tell every front end which workers there are."""
        generations = [generation for model in self._models.values() for generation in model.warm.values()]
        workers = [at for each in generations for at in each.ready]
        routing = Routing(workers=workers, active=self._active, restarts=self._restarts, swaps=self._swaps)
        for front in self._fronts:
            if front.child is not None:
                front.child.tell(Frame(Kind.CONTROL, meta=dumps(routing)))

    @property
    def _active(self) -> dict[str, int]:
        return {name: model.active.number for name, model in self._models.items()}

    def _later(self, wait_s: float, start: Callable[[], Awaitable[None]]) -> None:
        async def wait() -> None:
            await asyncio.sleep(wait_s)
            if not self._ending:
                await start()

        self._tasks.start(wait())

    async def _administer(self, request: AdminRequest) -> AdminReply:
        if isinstance(request, Deploy | Rollback):
            return await self._swap(request)
        return StatusReply(
            supervisor=os.getpid(),
            **self._at.told,
            generations=[
                GenerationStatus(
                    model=model.name,
                    generation=each.number,
                    source=each.source,
                    is_active=each is model.active,
                    workers=each.processes,
                )
                for model in self._models.values()
                for each in model.warm.values()
            ],
        )

    async def _swap(self, request: Deploy | Rollback) -> Receipt:
        model = self._model(request.model)
        old = model.active
        outcome: SwapOutcome = "refused"
        try:
            if isinstance(request, Deploy):
                receipt, outcome = await deploy(model, request, self._generation), "deployed"
            else:
                receipt, outcome = await rollback(model, self._generation), "rolled_back"
        except RanksmithError as error:
            self._log.warning("swap refused", model=model.name, why=error.message)
            raise
        finally:
            self._swaps.setdefault(model.name, Counter())[outcome] += 1
            self._route()
        self._persist()
        self._state.write_receipt(receipt)
        self._log.info("swapped", model=model.name, old=old.number, new=receipt.new_generation, took_s=receipt.total_s)
        # Of those that were replaced, the last one stays for a rollback; the others have nothing to wait for.
        for number, each in list(model.warm.items()):
            if each is not model.active:
                self._later(self._options.rollback_s if each is old else 0.0, partial(self._retire, model, number))
        return receipt

    def _model(self, name: str | None) -> Swappable:
        """
        Raises:
            UsageError: there is none of that name, or the name is needed.
        """
        if name is None and len(self._models) == 1:
            return next(iter(self._models.values()))
        if name is None or name not in self._models:
            known = ", ".join(sorted(self._models))
            what = "several models are served" if name is None else f"there is no model {name!r}"
            raise UsageError(f"{what}; say which with --model: {known}")
        return self._models[name]

    async def _retire(self, model: Swappable, number: int) -> None:
        """End a generation that was replaced, once no front end holds a request of it."""
        found = model.warm.get(number)
        if found is None or found is model.active:
            return
        while not all(front.drained.get(model.name) == model.active.number for front in self._fronts if front.child):
            self._changed.clear()
            await self._changed.wait()
        if found is model.active:
            return
        del model.warm[number]
        self._route()
        await found.end()
        self._log.info("generation ended", model=model.name, generation=number)

    def _persist(self) -> None:
        kept = self._state.active()
        kept |= {
            model.name: Active(target=model.target, source=model.active.source, generation=model.active.number)
            for model in self._models.values()
        }
        self._state.write_active(kept)

    async def _end(self, *waiting: asyncio.Task[Any]) -> None:
        """Front ends first: the workers must live until the last admitted request is answered."""
        self._ending = True
        for task in waiting:
            task.cancel()
        await asyncio.gather(*self._tasks.cancel(), *waiting, return_exceptions=True)
        fronts = [front.child for front in self._fronts if front.child]
        # Before they are told: each accepts who has come so far, and after that nobody may come.
        self._at.withdraw()
        for child in fronts:
            child.terminate()
        await gone(fronts, _GRACE_S)
        await asyncio.gather(*(each.end() for model in self._models.values() for each in model.warm.values()))
        self._log.info("ended")


def _numbered(spec: WorkerSpec, generation: int) -> WorkerSpec:
    return msgspec.structs.replace(spec, generation=generation)
