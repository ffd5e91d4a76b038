"""What becomes of a request: a reply, or that it is refused."""

from __future__ import annotations

from typing import NamedTuple

from ranksmith.serve.frames import Tensor
from ranksmith.serve.messages import Answer

__all__ = ["RefusedError", "Reply"]


class RefusedError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        retry_after_s: when to come again, where that helps.
        is_overload: whether too much is waiting, rather than too little there.
    """

    def __init__(
        self, status: int, message: str, *, retry_after_s: float | None = None, is_overload: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.is_overload = is_overload


class Reply(NamedTuple):
    """What a worker answered."""

    generation: int
    answer: Answer
    tensors: tuple[Tensor, ...]
