"""What one front end takes from its clients: sizes, times and how many at once."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """
    Attributes:
        body_bytes: of one request.
        bodies_bytes: of all requests that are being read or answered.
        head_bytes: of a request's line and headers.
        connections: open at once.
        head_s: for a request's line and headers to arrive.
        body_s: for its body to arrive, after the headers.
        linger_s: how long the rest of a refused body is read and thrown away, so that the client gets to the answer.
        stalled_s: how long an answer waits for a client that reads nothing.
        deadline_s: for requests that do not say theirs.
        longest_deadline_s: the most that a request can say.
    """

    body_bytes: int = 64 << 20
    bodies_bytes: int = 512 << 20
    head_bytes: int = 64 << 10
    connections: int = 4096
    head_s: float = 10.0
    body_s: float = 30.0
    linger_s: float = 1.0
    stalled_s: float = 30.0
    deadline_s: float = 10.0
    longest_deadline_s: float = 3600.0
