"""LitServe: FastAPI in front, workers behind multiprocessing queues. Raw float32 in and out."""

from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body, Response
from options import Session, parse

# Without this annotation LitServe reads JSON or forms. FastAPI hands over the bytes of any other content type.
Raw = Annotated[bytes, Body(media_type="application/octet-stream")]


class Inference(litserve.LitAPI):
    def __init__(self, model: str, threads: int, **given: Any) -> None:
        super().__init__(**given)
        self._model, self._threads = model, threads

    def setup(self, device: str) -> None:
        self._session = Session(self._model, self._threads, self.max_batch_size)

    def decode_request(self, request: Raw) -> Any:
        return self._session.row(request)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self._session.run(x)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    options = parse()
    api = Inference(
        options.model,
        options.threads,
        max_batch_size=options.max_batch,
        batch_timeout=options.max_wait_ms / 1e3,
    )
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=options.workers, restart_workers=True
    )
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
