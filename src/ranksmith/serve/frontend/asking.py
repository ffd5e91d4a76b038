"""What every way to ask over HTTP shares: the deadline, and a client that may go before it is answered."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Scope

from ranksmith.serve.frames import Kind, Tensor
from ranksmith.serve.frontend.connection import client_of
from ranksmith.serve.frontend.limits import Limits
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.reply import Reply
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.messages import Ask
from ranksmith.serve.oip.signature import InvalidRequestError

__all__ = ["Asking"]

_SECONDS_PER_UNIT = 1e-6


@dataclass(frozen=True, eq=False)
class Asking:
    pool: Pool
    limits: Limits

    async def reply(
        self,
        scope: Scope,
        served: Served,
        kind: Kind,
        tensors: tuple[Tensor, ...],
        ask: Ask,
        *,
        rows: int,
        timeout: object = None,
    ) -> Reply:
        """The reply; a client that closes its connection takes its rows out of the queue.

        Args:
            timeout: the protocol's, in microseconds; None or 0: the default.

        Raises:
            InvalidRequestError: the timeout is none.
            RefusedError: as the pool does.
            ClientDisconnect: nobody waits for the answer any more.
        """
        deadline_s = self.deadline_s(timeout)
        # Not a second task that waits for `http.disconnect`: that would double what a request costs asyncio.
        client = client_of(scope)
        client.waiting = asyncio.current_task()
        try:
            return await self.pool.reply(served.hello.name, kind, tensors, ask, rows=rows, deadline_s=deadline_s)
        except asyncio.CancelledError:
            if client.is_lost:
                raise ClientDisconnect from None
            raise
        finally:
            client.waiting = None

    def deadline_s(self, timeout: object) -> float:
        """On CLOCK_MONOTONIC, of a request with this parameter `timeout`.

        Raises:
            InvalidRequestError: it is no number of microseconds.
        """
        seconds = self.limits.deadline_s
        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < 2**64:
                raise InvalidRequestError("parameter 'timeout' must be a number of microseconds, 0 or more")
            if timeout > 0:
                seconds = min(timeout * _SECONDS_PER_UNIT, self.limits.longest_deadline_s)
        return time.monotonic() + seconds
