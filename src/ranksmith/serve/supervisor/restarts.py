"""When a process that died is started again: at once, later, or not at all.

A process that served for a while is started again at once. One that dies young waits, each time twice as long; one that
dies again and again without ever having served has its breaker tripped, as it would only ever die again.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Restarts"]

_YOUNG_S = 5.0
_FIRST_S, _LONGEST_S = 0.1, 10.0
_HOPELESS = 5


@dataclass
class Restarts:
    """The lives of one place in the server.

    Attributes:
        young: deaths in a row soon after the start.
        unready: deaths in a row before it was ready.
    """

    young: int = 0
    unready: int = 0

    def after(self, lived_s: float, *, was_ready: bool) -> float | None:
        """Seconds to wait before the next start; None: the breaker trips.

        Args:
            lived_s: since it was started.
        """
        self.unready = 0 if was_ready else self.unready + 1
        if self.unready >= _HOPELESS:
            return None
        if was_ready and lived_s >= _YOUNG_S:
            self.young = 0
            return 0.0
        self.young += 1
        # Once is bad luck.
        return 0.0 if self.young == 1 else min(_FIRST_S * 2.0 ** (self.young - 2), _LONGEST_S)
