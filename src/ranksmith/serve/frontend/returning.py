"""Clients that ask again as soon as they are answered.

Whoever keeps a connection busy comes back within a millisecond or two. A worker that has just answered several of them
and is given the first one's next request runs that alone, the next two after it, and so on; each batch costs both sides
about half a millisecond of work, with caches that the session has emptied, whatever is in it. So it pays to wait for
the others, for as long as they take and no longer, where most of those who are expected do come. Of connections that
many share who ask at random some return at once as well, but one cannot tell which.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Client", "Returning"]

# Of those who are expected so many have to come in time, by a mean over the last few hundred: with closed loops it is
# three quarters and more even on a busy machine, with Poisson arrivals over kept connections half.
_TRUST = 0.7
_WEIGHT = 1 / 256


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
        trust: the share of them that come in time.
        rows: that they asked for last.
    """

    patience_s: float = 0.0
    trust: float = 0.5
    rows: int = 0
    # Who was answered first stands first.
    _expected: dict[Client, None] = field(default_factory=dict)

    def asked(self, client: Client, rows: int, now: float) -> None:
        """It asks, as it was expected to or not."""
        was_here = client.answered_by is self
        is_quick = was_here and now - client.answered_s < self.patience_s
        if was_here and client.is_quick:
            self.trust += _WEIGHT * (is_quick - self.trust)
        client.is_quick = is_quick
        self._forget(client)
        client.rows = rows

    def answered(self, clients: Iterable[Client], now: float) -> None:
        """They have their answers, all at once."""
        for client in clients:
            client.answered_by, client.answered_s = self, now
            if client.is_quick:
                self._forget(client)
                self._expected[client] = None
                self.rows += client.rows

    def left_s(self, now: float) -> float:
        """How much longer it is worth waiting for them; 0: it is not."""
        while self._expected:
            client = next(iter(self._expected))
            left_s = client.answered_s + self.patience_s - now
            if left_s > 0:
                return left_s if self.trust >= _TRUST else 0.0
            self._forget(client)
        return 0.0

    def _forget(self, client: Client) -> None:
        if client in self._expected:
            del self._expected[client]
            self.rows -= client.rows
