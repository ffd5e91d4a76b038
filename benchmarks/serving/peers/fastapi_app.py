"""What one writes first: FastAPI and a session, one row at a time. Raw float32 in and out."""

from __future__ import annotations

import json
import os

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from options import Session, parse

# uvicorn's worker processes import this file by its name.
_GIVEN = "BENCHMARK_OPTIONS"


def make_app() -> FastAPI:
    session = Session(**json.loads(os.environ[_GIVEN]))
    app = FastAPI()

    @app.post("/inference")
    async def inference(request: Request) -> Response:
        row = session.row(await request.body())
        output = await run_in_threadpool(session.run, row[None])
        return Response(output.tobytes(), media_type="application/octet-stream")

    return app


def main() -> None:
    options = parse()
    os.environ[_GIVEN] = json.dumps({"model": options.model, "threads": options.threads, "max_batch": 1})
    uvicorn.run(
        "fastapi_app:make_app",
        factory=True,
        host="127.0.0.1",
        port=options.port,
        workers=options.workers,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
