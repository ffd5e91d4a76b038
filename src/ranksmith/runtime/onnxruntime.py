"""Sessions of onnxruntime: CPU, CUDA and TensorRT by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from ranksmith.errors import ModelError, ProviderError
from ranksmith.results import ValueInfo
from ranksmith.runtime.session import Feeds, model_name

__all__ = ["EXECUTION_PROVIDERS", "OrtSession", "available", "make_options", "translated"]

EXECUTION_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}

_HINTS = {
    "cuda": "pip install onnxruntime-gpu in place of onnxruntime, with CUDA and cuDNN on the machine",
    "tensorrt": "pip install onnxruntime-gpu in place of onnxruntime, with CUDA and TensorRT on the machine",
}

_FATAL_ONLY = 4
_MESSAGE_LINES = 3

# onnxruntime's exceptions share no base class but Exception; its Python layer adds ValueError and RuntimeError.
_NATIVE_ERRORS = tuple(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception))
_ERRORS: tuple[type[Exception], ...] = (*_NATIVE_ERRORS, ValueError, RuntimeError)

_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn onnxruntime's exceptions into a `ModelError` of one line that starts with `what`."""
    try:
        yield
    except _ERRORS as error:
        raise _translation(what, error) from error


def _translation(what: str, error: Exception) -> ModelError:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    # What is expected stands on the lines after the first; beyond those there may be a stack.
    reason = " ".join(line.strip() for line in text.strip().splitlines()[:_MESSAGE_LINES])
    return ModelError(f"{what}: {reason or type(error).__name__}")


def available(provider: str) -> bool:
    """Whether this onnxruntime was built with `provider` (its libraries may still be missing)."""
    return EXECUTION_PROVIDERS[provider][0] in ort.get_available_providers()


def make_options(threads: int) -> ort.SessionOptions:
    """Options that every session of ours has: fixed threads, in sequence, no spinning, quiet, deterministic."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # What goes wrong arrives as an exception; the same on stderr would say it twice.
    options.log_severity_level = _FATAL_ONLY
    return options


class OrtSession:
    """A `Session` of onnxruntime."""

    def __init__(self, session: ort.InferenceSession, *, name: str, provider: str, threads: int) -> None:
        self.name = name
        self.provider = provider
        self.threads = threads
        self.inputs = tuple(_value(argument) for argument in session.get_inputs())
        self.outputs = tuple(_value(argument) for argument in session.get_outputs())
        self._session = session
        self._options = ort.RunOptions()
        self._options.log_severity_level = _FATAL_ONLY

    @classmethod
    def open(
        cls, model: Path | bytes, *, provider: str, threads: int, options: ort.SessionOptions | None = None
    ) -> OrtSession:
        """Load a model; see `ranksmith.runtime.session.open_session`."""
        if not available(provider):
            installed = ", ".join(name for name in EXECUTION_PROVIDERS if available(name))
            raise ProviderError(
                f"provider {provider!r} is not in the onnxruntime installed here (it has: {installed})",
                hint=_HINTS.get(provider),
            )
        name = model_name(model)
        with translated(f"{name}: onnxruntime cannot load it"):
            session = ort.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                options or make_options(threads),
                providers=EXECUTION_PROVIDERS[provider],
            )
        # onnxruntime falls back to the CPU when a provider's libraries do not load.
        if EXECUTION_PROVIDERS[provider][0] not in session.get_providers():
            raise ProviderError(
                f"provider {provider!r} is in this onnxruntime but does not start on this machine",
                hint=_HINTS.get(provider),
            )
        return cls(session, name=name, provider=provider, threads=threads)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The outputs for `feeds`; see `Session.run`."""
        names = None if outputs is None else list(outputs)
        # A context manager would cost a served batch of a small model half a percent.
        try:
            return list(self._session.run(names, dict(feeds), self._options))
        except _ERRORS as error:
            raise _translation(f"{self.name}: onnxruntime cannot run it", error) from error

    def end_profiling(self) -> Path:
        """Stop profiling (the options asked for it) and return the file it wrote."""
        return Path(self._session.end_profiling())


def _value(argument: ort.NodeArg) -> ValueInfo:
    inner = re.sub(r"^tensor\((\w+)\)$", r"\1", argument.type)
    # An unnamed unknown dimension comes as None.
    shape = [dimension if isinstance(dimension, int | str) else "?" for dimension in argument.shape]
    return ValueInfo(name=argument.name, dtype=_DTYPES.get(argument.type, inner), shape=shape)
