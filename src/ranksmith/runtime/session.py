"""One small interface over the runtimes: open a model, run it, nothing else.

Every session has a fixed number of threads, runs its nodes in sequence, and does not spin while it
waits: a spinning pool steals time from the next session in a paired measurement, so a ratio taken
with spinning on is not the ratio of the two models.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ranksmith.errors import ModelError, UsageError
from ranksmith.results import ValueInfo

__all__ = ["PROVIDERS", "Feeds", "Session", "default_threads", "fixed_batch", "model_name", "open_session"]

PROVIDERS = ("cpu", "cuda", "tensorrt", "openvino", "openvino-bf16")

Feeds = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """A model ready to run."""

    @property
    def name(self) -> str:
        """What error messages call the model."""
        ...

    @property
    def inputs(self) -> tuple[ValueInfo, ...]: ...

    @property
    def outputs(self) -> tuple[ValueInfo, ...]: ...

    @property
    def provider(self) -> str: ...

    @property
    def threads(self) -> int: ...

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The named outputs (all, in the model's order, when None) for `feeds`, as fresh arrays.

        Raises:
            ModelError: the runtime refuses the feeds or fails.
        """
        ...


def default_threads() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fixed_batch(session: Session) -> int | None:
    """The batch that the model's first input is fixed to; None where it takes any."""
    shape = session.inputs[0].shape if session.inputs else None
    return shape[0] if shape and isinstance(shape[0], int) else None


def model_name(model: Path | bytes) -> str:
    """What to call a model in a message."""
    return str(model) if isinstance(model, Path) else "the model in memory"


def open_session(model: Path | bytes, *, provider: str = "cpu", threads: int | None = None) -> Session:
    """Load `model` for `provider` with `threads` intra-op threads (None: all cores).

    Args:
        model: a path (external data is found beside it) or a serialised model without external data.
        provider: one of `PROVIDERS`.

    Raises:
        UsageError: no such provider, or fewer than one thread.
        ProviderError: the provider is not installed; the hint says what to install.
        ModelError: the model cannot be loaded.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"no provider named {provider!r}", hint=f"choose one of {', '.join(PROVIDERS)}")
    threads = default_threads() if threads is None else threads
    if threads < 1:
        raise UsageError(f"{threads} threads are too few", hint="--threads takes a number from 1")
    if isinstance(model, Path) and not model.is_file():
        raise ModelError(f"{model}: no such file")
    if provider.startswith("openvino"):
        from ranksmith.runtime.openvino import OpenvinoSession

        return OpenvinoSession.open(model, provider=provider, threads=threads)
    from ranksmith.runtime.onnxruntime import OrtSession

    return OrtSession.open(model, provider=provider, threads=threads)
