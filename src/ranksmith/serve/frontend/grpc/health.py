"""grpc.health.v1, from what the pool knows: of everything, of our service, and of each model by its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from grpc_health.v1 import health_pb2

from ranksmith.serve.frontend.grpc.status import Context, answering
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.reply import RefusedError
from ranksmith.serve.oip.signature import quoted

__all__ = ["Health"]

_LOOK_S = 0.2


@dataclass(frozen=True, eq=False)
class Health:
    """
    Attributes:
        service: the full name of the one that answers from the pool.
        stopping: set it, and nothing is served any more and who watches is let go.
    """

    pool: Pool
    service: str
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def servicer(self) -> SimpleNamespace:
        return SimpleNamespace(Check=answering(self.check), Watch=self.watch, List=answering(self.list_all))

    async def check(self, request: Any, context: Context) -> Any:
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            raise RefusedError(404, f"there is no service {quoted(request.service)}")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        told = None
        while not self.stopping.is_set():
            status = self._status(request.service)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            try:
                await asyncio.wait_for(self.stopping.wait(), _LOOK_S)
            except TimeoutError:
                continue

    async def list_all(self, request: Any, context: Context) -> Any:
        response = health_pb2.HealthListResponse()
        for name in ("", self.service, *self.pool.names):
            response.statuses[name].status = self._status(name)
        return response

    def _status(self, service: str) -> Any:
        statuses = health_pb2.HealthCheckResponse
        if service in ("", self.service):
            ready = self.pool.is_all_ready
        elif self.pool.is_known(service):
            ready = self.pool.is_ready(service)
        else:
            return statuses.SERVICE_UNKNOWN
        return statuses.SERVING if ready and not self.stopping.is_set() else statuses.NOT_SERVING
