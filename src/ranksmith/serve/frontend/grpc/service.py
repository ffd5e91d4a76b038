"""The methods of `inference.GRPCInferenceService`."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import msgspec

from ranksmith._version import __version__
from ranksmith.serve.frontend.grpc.infer import Inference
from ranksmith.serve.frontend.grpc.status import Context, answering
from ranksmith.serve.frontend.grpc.stream import Streams
from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.frontend.triton import model_config, repository_index
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.oip.signature import InvalidRequestError

__all__ = ["SERVICE", "Service"]

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

_EXTENSIONS = ["model_configuration", "statistics"]


@dataclass(frozen=True, eq=False)
class Service:
    """What is not here, above all loading and unloading of models, is answered with UNIMPLEMENTED by gRPC."""

    inference: Inference
    streams: Streams

    @property
    def servicer(self) -> SimpleNamespace:
        return SimpleNamespace(
            ServerLive=answering(self.server_live),
            ServerReady=answering(self.server_ready),
            ModelReady=answering(self.model_ready),
            ServerMetadata=answering(self.server_metadata),
            ModelMetadata=answering(self.model_metadata),
            ModelInfer=answering(self.infer),
            ModelStreamInfer=answering(self.streams.answer),
            ModelConfig=answering(self.model_config),
            ModelStatistics=answering(self.model_statistics),
            RepositoryIndex=answering(self.repository_index),
        )

    async def server_live(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._pool.is_all_ready)

    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        ready = self._pool.is_ready(self._pool.known(request.name))
        if ready:
            self._served(request.name, request.version)
        return pb.ModelReadyResponse(ready=ready)

    async def server_metadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="ranksmith", version=__version__, extensions=_EXTENSIONS)

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        served = self._served(request.name, request.version)
        response = pb.ModelMetadataResponse(
            name=served.hello.name, versions=[str(served.generation)], platform="onnxruntime_onnx"
        )
        for told, infos in ((response.inputs, served.hello.inputs), (response.outputs, served.hello.outputs)):
            for info in infos:
                told.add(name=info.name, datatype=info.datatype, shape=info.shape)
        return response

    async def infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse()
        await self.inference.answer(request, context, response)
        return response

    async def model_config(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(
            config=msgspec.to_builtins(model_config(self._served(request.name, request.version)))
        )

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        if request.name:
            wanted = [self._served(request.name, request.version)]
        else:
            wanted = [served for _, served in sorted(self._pool.models.items())]
        versions = [(served.hello.name, served.generation) for served in wanted]
        told = self.inference.statistics.model_stats(versions)
        return pb.ModelStatisticsResponse(model_stats=msgspec.to_builtins(told))

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        if request.repository_name:
            raise InvalidRequestError("repository_name must be empty: there is only one repository")
        return pb.RepositoryIndexResponse(
            models=msgspec.to_builtins(repository_index(self._pool, only_ready=request.ready))
        )

    @property
    def _pool(self) -> Pool:
        return self.inference.pool

    def _served(self, name: str, version: str) -> Served:
        return self._pool.served(name, version or None)
