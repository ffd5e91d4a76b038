"""The command line of every peer, and the session that all of them run."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--name"):
        parser.add_argument(name, required=True)
    for name in ("--port", "--workers", "--threads", "--max-batch", "--max-wait-ms"):
        parser.add_argument(name, required=True, type=int)
    return parser.parse_args()


class Session:
    """The model; warmed up with every batch size, as ours is."""

    def __init__(self, model: str, threads: int, max_batch: int) -> None:
        # Where it is needed: servers' main processes import this too, and are told from their workers by it.
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait for work by spinning take the cores from the server.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        entry = self._session.get_inputs()[0]
        self.input_name, self.row_shape = entry.name, tuple(entry.shape[1:])
        self.output_name = self._session.get_outputs()[0].name
        for rows in range(1, max_batch + 1):
            self.run(np.zeros((rows, *self.row_shape), np.float32))

    def run(self, batch: Any) -> Any:
        return self._session.run(None, {self.input_name: batch})[0]

    def row(self, body: bytes) -> Any:
        """A request's raw float32."""
        return np.frombuffer(body, np.float32).reshape(self.row_shape)
