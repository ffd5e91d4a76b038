"""A request that waits in a worker."""

from __future__ import annotations

from dataclasses import dataclass

from ranksmith.serve.frames import Frame, Kind
from ranksmith.serve.messages import Ask
from ranksmith.serve.transport import Link
from ranksmith.serve.worker.model import Feeds

__all__ = ["Request"]


@dataclass(eq=False, slots=True)
class Request:
    """
    Attributes:
        link: of the front end that asked.
        rows: of the feeds; 1 where the model has no batch dimension.
        arrived_s: when it was ready to be run, on CLOCK_MONOTONIC.
        decode_ms: what it took until then to make an image of it.
    """

    link: Link
    frame: Frame
    ask: Ask
    feeds: Feeds
    rows: int
    arrived_s: float
    decode_ms: float

    @property
    def is_image(self) -> bool:
        return self.frame.kind is Kind.IMAGE
