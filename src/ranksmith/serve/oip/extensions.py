"""What goes over REST in the extensions of the protocol that Triton's clients know, as msgspec Structs.

https://github.com/triton-inference-server/server/tree/main/docs/protocol: model configuration, statistics, and the list
of models.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

__all__ = [
    "AllStatistics",
    "ConfiguredTensor",
    "IndexEntry",
    "IndexRequest",
    "InferStatistics",
    "ModelConfig",
    "ModelStatistics",
    "SpecificVersions",
    "StatisticDuration",
    "VersionPolicy",
]


class ConfiguredTensor(Struct, frozen=True):
    """An input or output; where the model has a batch dimension, `dims` leave it out."""

    name: str
    data_type: str
    dims: list[int]


class SpecificVersions(Struct, frozen=True):
    """The versions that are served."""

    versions: list[int]


class VersionPolicy(Struct, frozen=True):
    """Which versions are served."""

    specific: SpecificVersions


class ModelConfig(Struct, frozen=True, kw_only=True):
    """The answer of `GET /v2/models/M/config`; `max_batch_size` is 0 where there is no batch dimension."""

    name: str
    platform: str
    backend: str
    version_policy: VersionPolicy
    max_batch_size: int
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]


class StatisticDuration(Struct, frozen=True):
    """How often, and how many nanoseconds in all."""

    count: int
    ns: int


class InferStatistics(Struct, frozen=True, kw_only=True):
    """Durations of requests. What is not measured has a count of 0."""

    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    cache_hit: StatisticDuration
    cache_miss: StatisticDuration


class ModelStatistics(Struct, frozen=True, kw_only=True):
    """Of one version of a model; `last_inference` is in milliseconds since the epoch, 0 where there was none."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: list[Any]


class AllStatistics(Struct, frozen=True):
    """The answer of `GET /v2/models/stats` and of `GET /v2/models/M/stats`."""

    model_stats: list[ModelStatistics]


class IndexRequest(Struct, frozen=True):
    """The JSON of `POST /v2/repository/index`, which may be left out."""

    ready: bool | None = None


class IndexEntry(Struct, frozen=True):
    """A model in the answer of `POST /v2/repository/index`; `version` is empty until it was ready once."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str
