"""What waits in a worker: the requests of one frame, which run together."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from ranksmith.serve.messages import Ask
from ranksmith.serve.transport import Link
from ranksmith.serve.worker.model import Feeds

__all__ = ["Request"]


@dataclass(eq=False, slots=True)
class Request:
    """One request, or several alike.

    Attributes:
        link: of the front end that asked.
        numbers: theirs, on this link.
        feeds: of all of them, as many rows for each.
        rows: of the feeds; 1 where the model has no batch dimension.
        arrived_s: when it was ready to be run, on CLOCK_MONOTONIC.
        deadline_s: on CLOCK_MONOTONIC, the earliest of theirs; 0: none.
        is_image: whether the row was made of an image.
        decode_ms: what that took.
    """

    link: Link
    numbers: tuple[int, ...]
    ask: Ask
    feeds: Feeds
    rows: int
    arrived_s: float
    deadline_s: float
    is_image: bool = False
    decode_ms: float = 0.0

    def apart(self) -> list[Request]:
        """Each of them by itself."""
        return [self._part([place]) for place in range(len(self.numbers))]

    def drop(self, number: int) -> None:
        """Leave one out, which is not the only one."""
        rest = self._part([place for place, each in enumerate(self.numbers) if each != number])
        self.numbers, self.ask, self.feeds, self.rows = rest.numbers, rest.ask, rest.feeds, rest.rows

    def _part(self, places: list[int]) -> Request:
        count = len(self.numbers)
        rows = self.rows // count
        ids = self.ask.ids
        return Request(
            self.link,
            tuple(self.numbers[place] for place in places),
            msgspec.structs.replace(self.ask, ids=[ids[place] for place in places if place < len(ids)]),
            {
                name: array if count == 1 else np.concatenate([array[place * rows :][:rows] for place in places])
                for name, array in self.feeds.items()
            },
            rows * len(places),
            self.arrived_s,
            self.deadline_s,
            self.is_image,
            self.decode_ms,
        )
