"""Clients that ask again as soon as they are answered.

Whoever keeps a connection busy comes back within a millisecond or two. A worker that has just answered several of them
and is given the first one's next request runs that alone, the next two after it, and so on; each batch costs both sides
about half a millisecond of work, with caches that the session has emptied, whatever is in it. So it pays to wait for
the others, for as long as they take and no longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Client", "Returning"]


@dataclass(eq=False, slots=True)
class Client:
    """One connection of a client that waits for an answer before it asks again.

    Attributes:
        rows: that it asked for last.
        answered_by, answered_s: of what it asked for last, once that is answered; on CLOCK_MONOTONIC.
        is_quick: whether it asked again soon after it was answered, the last time.
    """

    rows: int = 0
    answered_by: Returning | None = None
    answered_s: float = -math.inf
    is_quick: bool = False


@dataclass(eq=False)
class Returning:
    """The clients of one model that were answered a moment ago and are expected to ask again.

    Attributes:
        patience_s: for so long after an answer they are expected; who takes longer is not, the next time.
        rows: that they asked for last.
    """

    patience_s: float = 0.0
    rows: int = 0
    _expected: set[Client] = field(default_factory=set)
    _answered_s: float = -math.inf

    def asked(self, client: Client, rows: int, now: float) -> None:
        """It asks, as it was expected to or not."""
        client.is_quick = client.answered_by is self and now - client.answered_s < self.patience_s
        if client in self._expected:
            self._expected.remove(client)
            self.rows -= client.rows
        client.rows = rows

    def answered(self, clients: Iterable[Client], now: float) -> None:
        """They have their answers, all at once."""
        self._answered_s = now
        for client in clients:
            client.answered_by, client.answered_s = self, now
            if client.is_quick and client not in self._expected:
                self._expected.add(client)
                self.rows += client.rows

    def left_s(self, now: float) -> float:
        """How much longer it is worth waiting for them; not above 0: nobody is expected any more."""
        left_s = self._answered_s + self.patience_s - now
        if left_s <= 0:
            self._expected.clear()
            self.rows = 0
        return left_s if self._expected else 0.0
