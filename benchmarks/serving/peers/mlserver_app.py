"""MLServer: adaptive batching, parallel workers. The Open Inference Protocol as JSON: its REST has no binary data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.cli import main as start
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from options import Session, parse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        given = self.settings.parameters.extra
        self._session = Session(self.settings.parameters.uri, given["threads"], self.settings.max_batch_size)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        batch = NumpyCodec.decode_input(payload.inputs[0]).astype("float32", copy=False)
        output = NumpyCodec.encode_output(self._session.output_name, self._session.run(batch))
        return InferenceResponse(model_name=self.name, outputs=[output])


def main() -> None:
    options = parse()
    model = {
        "name": options.name,
        "implementation": "mlserver_app.OnnxModel",
        "max_batch_size": options.max_batch,
        "max_batch_time": options.max_wait_ms / 1e3,
        "parameters": {"uri": options.model, "extra": {"threads": options.threads}},
    }
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": options.port,
        "grpc_port": 0,
        "metrics_endpoint": None,
        "parallel_workers": options.workers,
        "gzip_enabled": False,
    }
    Path("model-settings.json").write_text(json.dumps(model))
    Path("settings.json").write_text(json.dumps(server))
    sys.argv[1:] = ["start", "."]
    start()


if __name__ == "__main__":
    main()
