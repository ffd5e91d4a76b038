"""onnxruntime in a loop, with no server: `bare_process.py MODEL THREADS BATCH SPINNING`.

Writes `ready`, then for every line with a number of seconds runs for that long and writes a JSON object.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime as ort

FEWEST = 3


def main() -> None:
    model, threads, batch, spinning = sys.argv[1], *map(int, sys.argv[2:])
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(spinning))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    rows = np.random.default_rng(0).standard_normal((batch, *entry.shape[1:])).astype(np.float32)
    for _ in range(3):
        session.run(None, {entry.name: rows})
    print("ready", flush=True)
    for line in sys.stdin:
        times: list[float] = []
        start = last = time.perf_counter()
        while last - start < float(line) or len(times) < FEWEST:
            session.run(None, {entry.name: rows})
            now = time.perf_counter()
            times.append(now - last)
            last = now
        told = {"per_second": batch * len(times) / (last - start), "p50_ms": 1e3 * float(np.median(times))}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
