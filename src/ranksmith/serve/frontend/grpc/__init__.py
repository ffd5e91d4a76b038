"""gRPC: the Open Inference Protocol v2 with Triton's extensions, the standard health service, and reflection.

https://github.com/kserve/open-inference-protocol
https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from __future__ import annotations

from ranksmith.serve.frontend.grpc.server import GrpcServer, start_grpc

__all__ = ["GrpcServer", "start_grpc"]
