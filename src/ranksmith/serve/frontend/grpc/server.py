"""The server: its services, its port, and its end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ranksmith.serve.frontend.grpc.health import Health
from ranksmith.serve.frontend.grpc.infer import Inference
from ranksmith.serve.frontend.grpc.service import SERVICE, Service
from ranksmith.serve.frontend.grpc.stream import Streams
from ranksmith.serve.frontend.grpc.unreadable import RefuseUnreadable
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.statistics import Statistics
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.oip.proto import open_inference_pb2_grpc as pb_grpc

__all__ = ["GrpcServer", "start_grpc"]

_QUIET_S = 0.05
_QUIET_WITHIN_S = 1.0
# Of the time for ending; the rest is for answering what was read.
_READING_SHARE = 1 / 3


@dataclass(frozen=True, eq=False)
class GrpcServer:
    """A server that has been started.

    Attributes:
        port: where it listens.
    """

    port: int
    _server: grpc.aio.Server
    _inference: Inference
    _streams: Streams
    _stopping: asyncio.Event

    async def stop(self, grace_s: float | None) -> None:
        """Answer what has come, accept nothing more, end.

        Args:
            grace_s: after so long, what is left is cancelled; None: at once.
        """
        # Who watches our health would otherwise be waited for.
        self._stopping.set()
        if grace_s:
            end_s = time.monotonic() + grace_s
            await self._until_quiet(most_s=_READING_SHARE * grace_s)
            grace_s = max(0.0, end_s - time.monotonic())
        self._streams.end()
        await self._server.stop(grace_s)

    async def _until_quiet(self, most_s: float) -> None:
        """Take what has arrived: gRPC hands calls over one by one, and cancels those that wait for it at the end.

        Args:
            most_s: how long streams are waited for that have no room for what has arrived.
        """
        now_s = time.monotonic()
        last_s, limit_s = now_s + most_s, now_s + _QUIET_WITHIN_S
        seen = -1
        while (seen != self._inference.calls or self._streams.are_holding_back) and now_s < limit_s:
            if self._streams.are_holding_back:
                limit_s = min(now_s + _QUIET_WITHIN_S, last_s)
            seen = self._inference.calls
            await asyncio.sleep(_QUIET_S)
            now_s = time.monotonic()


async def start_grpc(
    pool: Pool, listening_address: str, *, deadline_s: float, most_bytes: int, statistics: Statistics | None = None
) -> GrpcServer:
    """Listen, beside other front ends, and answer from the pool.

    Args:
        listening_address: HOST:PORT.
        deadline_s: for requests that do not say theirs.
        most_bytes: of one request.
        statistics: to tell; None: of this front end only.

    Raises:
        RuntimeError: the port is taken.
    """
    options = [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", most_bytes),
        ("grpc.max_send_message_length", -1),
    ]
    server = grpc.aio.server(options=options, interceptors=[RefuseUnreadable()])
    health = Health(pool, SERVICE)
    inference = Inference(pool, deadline_s, statistics or Statistics(pool.counts))
    streams = Streams(inference, most_bytes)
    service = Service(inference, streams)
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(service.servicer, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=_described())
    port = server.add_insecure_port(listening_address)
    await server.start()
    return GrpcServer(port, server, inference, streams, health.stopping)


def _described() -> DescriptorPool:
    """What reflection tells of: our messages are not in the pool where the other services' are."""
    pool = DescriptorPool()
    for file in (pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool
