"""What Triton's clients ask of a server beyond the protocol: a model's configuration, and the list of models.

https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from __future__ import annotations

from collections.abc import Sequence

from ranksmith.serve.frontend.pool import Pool
from ranksmith.serve.frontend.served import Served
from ranksmith.serve.messages import TensorInfo
from ranksmith.serve.oip.extensions import ConfiguredTensor, IndexEntry, ModelConfig, SpecificVersions, VersionPolicy

__all__ = ["data_type", "model_config", "repository_index"]


def model_config(served: Served) -> ModelConfig:
    """Triton's model configuration; where there is a batch dimension, `dims` leave it out."""
    hello = served.hello
    is_batched = served.is_batched
    return ModelConfig(
        name=hello.name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        version_policy=VersionPolicy(SpecificVersions([served.generation])),
        max_batch_size=hello.max_batch if is_batched else 0,
        input=_tensors(hello.inputs, is_batched),
        output=_tensors(hello.outputs, is_batched),
    )


def _tensors(infos: Sequence[TensorInfo], is_batched: bool) -> list[ConfiguredTensor]:
    return [
        ConfiguredTensor(info.name, data_type(info), info.shape[1:] if is_batched else info.shape) for info in infos
    ]


def data_type(info: TensorInfo) -> str:
    """Triton's name of a datatype."""
    return "TYPE_STRING" if info.datatype == "BYTES" else f"TYPE_{info.datatype}"


def repository_index(pool: Pool, *, only_ready: bool) -> list[IndexEntry]:
    """The models there are, by name."""
    index = []
    for name in pool.names:
        served = pool.models.get(name)
        is_ready = served is not None and pool.is_ready(name)
        if is_ready or not only_ready:
            version = "" if served is None else str(served.generation)
            reason = "" if is_ready else "no worker has it loaded"
            index.append(IndexEntry(name, version, "READY" if is_ready else "UNAVAILABLE", reason))
    return index
