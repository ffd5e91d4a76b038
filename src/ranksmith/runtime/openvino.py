"""Sessions of OpenVINO on the CPU (extra `openvino`): float32, or bfloat16 where the CPU has it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.errors import ModelError, ProviderError
from ranksmith.results import ValueInfo
from ranksmith.runtime.session import Feeds, model_name

__all__ = ["OpenvinoSession", "installed"]

_PRECISIONS = {"openvino": "f32", "openvino-bf16": "bf16"}


def installed() -> bool:
    """Whether the `openvino` package is there."""
    return importlib.util.find_spec("openvino") is not None


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        # OpenVINO's message is a stack of "Exception from file:line:" lines; the reason is what they wrap.
        lines = [line.strip() for line in str(error).splitlines()]
        reasons = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
        raise ModelError(f"{what}: {' '.join(reasons[:2]) or type(error).__name__}") from error


@cache
def _core() -> Any:
    """The only one of this process, kept to its end.

    Each installs an alternate stack for signals and puts back what it found when it goes; of two that do not go in
    the reverse order of their coming the second leaves freed memory behind, and Ctrl-C is a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenvinoSession:
    """A `Session` of OpenVINO."""

    def __init__(self, compiled: Any, *, name: str, provider: str, threads: int) -> None:
        self.name = name
        self.provider = provider
        self.threads = threads
        self.inputs = tuple(_value(port) for port in compiled.inputs)
        self.outputs = tuple(_value(port) for port in compiled.outputs)
        self._ports = {value.name: port for value, port in zip(self.outputs, compiled.outputs, strict=True)}
        self._request = compiled.create_infer_request()

    @classmethod
    def open(cls, model: Path | bytes, *, provider: str, threads: int) -> OpenvinoSession:
        """Load a model; see `ranksmith.runtime.session.open_session`."""
        if not installed():
            raise ProviderError(
                f"provider {provider!r} needs OpenVINO, which is not installed here",
                hint="pip install 'ranksmith[openvino]'",
            )
        name = model_name(model)
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[provider],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        with _translated(f"{name}: OpenVINO cannot load it"):
            core = _core()
            network = core.read_model(str(model) if isinstance(model, Path) else model)
            compiled = core.compile_model(network, "CPU", settings)
            return cls(compiled, name=name, provider=provider, threads=threads)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The outputs for `feeds`; see `Session.run`."""
        with _translated(f"{self.name}: OpenVINO cannot run it"):
            results = self._request.infer(dict(feeds), share_inputs=True)
            names = [value.name for value in self.outputs] if outputs is None else outputs
            return [np.array(results[self._ports[name]]) for name in names]


def _value(port: Any) -> ValueInfo:
    # OpenVINO forgets the names of symbolic dimensions.
    shape = [int(d.get_length()) if d.is_static else "?" for d in port.get_partial_shape()]
    dtype = np.dtype(port.get_element_type().to_dtype()).name
    return ValueInfo(name=port.get_any_name(), dtype=dtype, shape=list(shape))
