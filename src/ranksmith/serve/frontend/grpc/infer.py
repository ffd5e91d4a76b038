"""From the message of one request to the message of its answer."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ranksmith.serve.frames import Kind, Tensor
from ranksmith.serve.frontend import guard
from ranksmith.serve.frontend.grpc.status import Context
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.reply import Reply
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.frontend.statistics import Statistics
from ranksmith.serve.messages import Ask
from ranksmith.serve.oip import datatypes, rpc
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.oip.signature import Asked, InvalidRequestError

__all__ = ["Inference"]

_SECONDS_PER_UNIT = 1e-6
_LONGEST_S = 86400.0
_MOST_CLASSES = 1000


@dataclass(eq=False)
class Inference:
    """
    Attributes:
        deadline_s: for requests that do not say theirs.
        calls: so many requests have begun.
    """

    pool: Pool
    deadline_s: float
    statistics: Statistics
    calls: int = 0

    async def answer(self, request: pb.ModelInferRequest, context: Context, response: pb.ModelInferResponse) -> None:
        """Fill in the response.

        Raises:
            InvalidRequestError: the model does not take the request.
            RefusedError: it cannot be answered in time, or not at all.
        """
        self.calls += 1
        served = self.pool.served(request.model_name, request.model_version or None)
        image = rpc.image_signature(request) if _wants_images(served) else None
        asked = rpc.decode(request, image or served.signature)
        deadline_s = self._deadline(asked, context)
        request_id = guard.request_id(dict(context.invocation_metadata()))
        reply = await (self._classify if image else self._run)(served, asked, deadline_s, request_id)
        tensors = rpc.class_tensors(reply.answer.predictions or []) if image else reply.tensors
        rpc.encode(response, served.hello.name, str(reply.generation), asked, tensors)

    async def _run(self, served: Served, asked: Asked, deadline_s: float, request_id: str) -> Reply:
        ask = Ask(ids=[request_id], outputs=[output.name for output in asked.outputs])
        name = served.hello.name
        return await self.pool.reply(name, Kind.INFER, asked.tensors, ask, rows=asked.rows, deadline_s=deadline_s)

    async def _classify(self, served: Served, asked: Asked, deadline_s: float, request_id: str) -> Reply:
        (encoded,) = datatypes.split_elements(asked.tensors[0].data)
        if not encoded:
            raise InvalidRequestError(f"input {asked.tensors[0].name!r} has no image in it")
        tensor = Tensor("image", "UINT8", (len(encoded),), encoded)
        ask = Ask(ids=[request_id], top_k=_top_k(asked))
        return await self.pool.reply(served.hello.name, Kind.IMAGE, (tensor,), ask, rows=1, deadline_s=deadline_s)

    def _deadline(self, asked: Asked, context: Context) -> float:
        """On CLOCK_MONOTONIC: the earlier of `grpc-timeout` and the protocol's `timeout`, which is in microseconds."""
        limits = [] if (left_s := context.time_remaining()) is None else [left_s]
        timeout = asked.parameters.get("timeout")
        if isinstance(timeout, int | float) and not isinstance(timeout, bool) and timeout > 0:
            limits.append(timeout * _SECONDS_PER_UNIT)
        return time.monotonic() + min(*limits, _LONGEST_S) if limits else time.monotonic() + self.deadline_s


def _wants_images(served: Served) -> bool:
    return served.hello.takes_images and served.hello.inputs[0].datatype != "BYTES"


def _top_k(asked: Asked) -> int:
    value = asked.parameters.get("top_k", 5)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_CLASSES:
        raise InvalidRequestError(f"parameter 'top_k' must be a number from 1 to {_MOST_CLASSES}")
    return value
