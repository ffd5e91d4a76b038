"""A closed loop over gRPC: the Open Inference Protocol's ModelInfer with raw contents, one channel per client.

grpcio's client takes several times the CPU of the HTTP one, from the same cores: the server's own cost is the figure to
look at.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import grpc

from benchmarks.serving.questions import Floats, Judge, Questions
from benchmarks.serving.tally import Outcome, Tally
from benchmarks.serving.wire import Reply
from ranksmith.serve.oip.proto import open_inference_pb2 as messages

__all__ = ["closed_loop", "model_infer", "values"]

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_STATUS = {grpc.StatusCode.RESOURCE_EXHAUSTED: 429, grpc.StatusCode.UNAVAILABLE: 503}
_DEADLINE_S = 15.0


def model_infer(name: str, questions: Questions, row: Floats) -> bytes:
    tensor = messages.ModelInferRequest.InferInputTensor(
        name=questions.input_name, datatype="FP32", shape=list(row.shape)
    )
    request = messages.ModelInferRequest(model_name=name, inputs=[tensor], raw_input_contents=[row.tobytes()])
    content: bytes = request.SerializeToString()
    return content


def values(body: bytes) -> bytes:
    """The first output's data."""
    content: bytes = messages.ModelInferResponse.FromString(body).raw_output_contents[0]
    return content


async def closed_loop(address: str, requests: list[bytes], judge: Judge, *, clients: int, seconds: float) -> Outcome:
    tally = Tally(judge, seconds)
    questions = itertools.cycle(range(len(requests)))

    async def client() -> None:
        # A subchannel of its own, or all channels would share one connection.
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            infer = channel.unary_unary(_METHOD)
            while not tally.is_over():
                question, start = next(questions), time.perf_counter()
                reply: Reply | str
                try:
                    reply = Reply(200, await infer(requests[question], timeout=_DEADLINE_S), is_last=False)
                except grpc.aio.AioRpcError as error:
                    code = error.code()
                    reply = Reply(_STATUS[code], b"", is_last=False) if code in _STATUS else f"status {code.name}"
                tally.took(question, start, reply)

    tally.begin()
    await asyncio.gather(*(client() for _ in range(clients)))
    return tally.outcome()
