"""mosec: a Rust front end that batches, Python workers. Raw float32 in and out."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
from mosec import Server, Worker
from options import Session, parse

# mosec reads the command line itself, and its spawned workers import this file anew with another one.
_GIVEN = "BENCHMARK_OPTIONS"


class Inference(Worker):
    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._session = Session(**json.loads(os.environ[_GIVEN]))

    def deserialize(self, data: bytes) -> Any:
        return self._session.row(data)

    def forward(self, data: list[Any]) -> list[Any]:
        return list(self._session.run(np.stack(data)))

    def serialize(self, data: Any) -> bytes:
        return bytes(data.tobytes())


def main() -> None:
    options = parse()
    given = {"model": options.model, "threads": options.threads, "max_batch": options.max_batch}
    os.environ[_GIVEN] = json.dumps(given)
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(options.port), "--log-level", "warning"]
    server = Server()
    server.append_worker(
        Inference, num=options.workers, max_batch_size=options.max_batch, max_wait_time=options.max_wait_ms
    )
    server.run()


if __name__ == "__main__":
    main()
