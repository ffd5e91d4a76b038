"""Milliseconds of each node inside a whole model, from onnxruntime's profiler.

onnxruntime rewrites the graph before it runs it: BatchNormalization, activations and residual Adds melt into
the Conv before them. A Conv in the blocked layout is a new node called after the value it computes, "<value>_nchwc",
a quantized one is called after its node, "<node>_token_<number>". Here such a node's time is given back to the Conv of
the original model: the value is looked up there and followed upwards, through what melts into a Conv, to the Conv
itself. So a Conv's time includes its activation and its Add, as it must when layers are compared.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ranksmith.runtime.onnxruntime import OrtSession, make_options
from ranksmith.runtime.session import Feeds, default_threads

__all__ = ["interleaved_node_times", "node_times"]

_WARMUP, _WARMUP_S = 2, 0.2
"""Runs and seconds before what counts: NumPy's threads, for one, spin for tens of milliseconds after a product."""
_BLOCKED = re.compile(r"_nchwc$")
_TOKEN = re.compile(r"_token_\d+$")
_MELTING = {
    "Add",
    "BatchNormalization",
    "Clip",
    "HardSigmoid",
    "Identity",
    "LeakyRelu",
    "Mul",
    "Relu",
    "Sigmoid",
    "Tanh",
}


def node_times(model: Path | bytes, feeds: Feeds, *, threads: int | None = None, runs: int = 10) -> dict[str, float]:
    """The median over `runs` of each node's milliseconds, on the CPU.

    Profiling itself costs a little at each node, so the sum is somewhat above the model's latency.

    Returns:
        By the original node's name where it is known (always for a Conv), else by the name onnxruntime gave.

    Raises:
        ModelError: the model cannot be loaded or run.
    """
    return interleaved_node_times([model], feeds, threads=threads, runs=runs)[0]


def interleaved_node_times(
    models: Sequence[Path | bytes], feeds: Feeds, *, threads: int | None = None, runs: int = 10
) -> list[dict[str, float]]:
    """`node_times` of several models that take the same feeds, run in turn so that they can be compared."""
    threads = threads or default_threads()
    with tempfile.TemporaryDirectory(prefix="ranksmith-profile-") as folder:
        sessions = []
        for index, model in enumerate(models):
            options = make_options(threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / f"profile-{index}")
            sessions.append(OrtSession.open(model, provider="cpu", threads=threads, options=options))
        settled = time.perf_counter() + _WARMUP_S
        counted = -_WARMUP
        while counted < runs:
            for session in sessions:
                session.run(feeds)
            counted += 1 if counted >= 0 or time.perf_counter() > settled else 0
        return [
            _medians(json.loads(session.end_profiling().read_text(encoding="utf-8")), _Original(model), runs)
            for session, model in zip(sessions, models, strict=True)
        ]


def _medians(events: list[dict[str, Any]], original: _Original, runs: int) -> dict[str, float]:
    durations: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"].removesuffix("_kernel_time"), event["args"]["node_index"]
            durations[key].append(event["dur"] / 1e3)
    times: defaultdict[str, float] = defaultdict(float)
    for (name, _), samples in durations.items():
        times[original.name(name)] += float(np.median(samples[-runs:]))
    return dict(times)


class _Original:
    """The graph as it was before onnxruntime rewrote it."""

    def __init__(self, model: Path | bytes) -> None:
        # onnxruntime has loaded it by now, so it can be read.
        read = onnx.load(model, load_external_data=False) if isinstance(model, Path) else onnx.load_from_string(model)
        graph = read.graph
        self._nodes = {node.name for node in graph.node}
        self._producers = {value: node for node in graph.node for value in node.output}

    def name(self, name: str) -> str:
        """The original node that `name` stands for, or `name`."""
        if name in self._nodes:
            return name
        name = _TOKEN.sub("", name)
        if name in self._nodes:
            return name
        value = _BLOCKED.sub("", name)
        node = self._producers.get(value)
        produced_by = node
        while node is not None and node.op_type in _MELTING:
            # Of a Mul or an Add of a constant, the computed side; a Conv never melts into a two-sided one by name.
            computed = [source for source in node.input if source in self._producers]
            node = self._producers[computed[0]] if computed else None
        if node is not None and node.op_type in ("Conv", "ConvTranspose"):
            return str(node.name)
        return str(produced_by.name) if produced_by is not None and produced_by.name else name
