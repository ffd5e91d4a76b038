"""`ModelStreamInfer`: many requests over one call.

Answers come in the order of the requests, as Triton's do for models that answer each request once: a client that gives
its requests no ids has nothing else to tell them apart by. A request that fails is answered with `error_message` and
its id, and the stream goes on.

A request is held from being read until its answer has been handed to the connection. A stream that holds as much as it
may is not read from, and HTTP/2's flow control then stops its client: neither one that floods nor one that reads no
answers gets hold of more memory than that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ranksmith.serve.frontend.grpc.infer import Inference
from ranksmith.serve.frontend.grpc.status import Context, told
from ranksmith.serve.frontend.reply import RefusedError
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.oip.signature import InvalidRequestError

__all__ = ["MOST_HELD", "Streams"]

# Enough for some batches of a few workers.
MOST_HELD = 64


@dataclass(eq=False)
class Streams:
    """The streams that are open.

    Attributes:
        most_bytes: of the requests that one stream holds, the last one not counted.
    """

    inference: Inference
    most_bytes: int
    _open: set[_Stream] = field(default_factory=set)

    @property
    def are_holding_back(self) -> bool:
        """Whether requests may have come that are not read yet."""
        return any(stream.is_full for stream in self._open)

    def end(self) -> None:
        """Read no more requests; answer what was read."""
        for stream in self._open:
            stream.end()

    async def answer(self, requests: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        """Answer one stream until its client, or `end`, ends it."""
        stream = _Stream(self.inference, context, self.most_bytes)
        self._open.add(stream)
        try:
            await stream.run(requests)
        finally:
            self._open.discard(stream)


@dataclass(frozen=True, eq=False, slots=True)
class _Held:
    answer: asyncio.Task[pb.ModelStreamInferResponse]
    size_bytes: int


class _Stream:
    def __init__(self, inference: Inference, context: Context, most_bytes: int) -> None:
        self._inference = inference
        self._context = context
        self._most_bytes = most_bytes
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._end: Exception | None = None

    @property
    def is_full(self) -> bool:
        return len(self._held) >= MOST_HELD or self._held_bytes >= self._most_bytes

    def end(self) -> None:
        if self._reading is not None and self._reading.cancel():
            self._end = RefusedError(503, "the server is ending; requests that were not answered have not been taken")

    async def run(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        """
        Raises:
            InvalidRequestError: the client sent something else than requests.
            RefusedError: the stream was cut off.
        """
        self._reading = reading = asyncio.ensure_future(self._read(requests))
        reading.add_done_callback(lambda _: self._changed.set())
        try:
            while self._held or not reading.done():
                if self._held:
                    await self._context.write(await self._held[0].answer)
                    self._let_go()
                else:
                    await self._change()
        finally:
            reading.cancel()
            for held in self._held:
                held.answer.cancel()
        if self._end is not None:
            raise self._end
        reading.result()

    async def _read(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        try:
            async for request in requests:
                self._hold(_Held(asyncio.ensure_future(self._answer(request)), request.ByteSize()))
                while self.is_full:
                    await self._change()
        except DecodeError:
            self._end = InvalidRequestError("a message of the stream is no ModelInferRequest")

    async def _answer(self, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        response = pb.ModelStreamInferResponse()
        try:
            await self._inference.answer(request, self._context, response.infer_response)
        except Exception as error:
            return pb.ModelStreamInferResponse(
                error_message=told(error).message, infer_response=pb.ModelInferResponse(id=request.id)
            )
        # Clients that also know models which answer in parts wait for it.
        response.infer_response.parameters["triton_final_response"].bool_param = True
        return response

    def _hold(self, held: _Held) -> None:
        self._held.append(held)
        self._held_bytes += held.size_bytes
        self._changed.set()

    def _let_go(self) -> None:
        self._held_bytes -= self._held.popleft().size_bytes
        self._changed.set()

    async def _change(self) -> None:
        """Wait until there is more to answer, more room, or nothing more to read."""
        self._changed.clear()
        await self._changed.wait()
