"""`ranksmith serve`: models over HTTP, and no request lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ranksmith.cli.admin import StateDirOption
from ranksmith.cli.admin import state_dir as directory
from ranksmith.cli.options import LabelsOption, PreprocessOption, ProviderOption, ThreadsOption

__all__ = ["serve"]


def serve(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...", help="Bundles, ONNX files, model zoo names, or the word demo.", show_default=False
        ),
    ],
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option("--http-port", metavar="PORT", min=0, max=65535, help="0: any that is free.")
    ] = 8000,
    grpc_port: Annotated[
        int, typer.Option("--grpc-port", metavar="PORT", min=0, max=65535, help="0: any that is free.")
    ] = 8001,
    http_uds: Annotated[
        Path | None,
        typer.Option(
            "--http-uds",
            metavar="PATH",
            help="HTTP on a Unix socket as well, which only this user may open.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Processes that run each model, with a copy each.")
    ] = 1,
    frontends: Annotated[
        int, typer.Option("--frontends", metavar="N", min=1, help="Processes that share the addresses.")
    ] = 1,
    threads: ThreadsOption = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", metavar="N", min=1, max=256, help="Most rows that run together.")
    ] = 16,
    preprocess: PreprocessOption = None,
    labels: LabelsOption = None,
    provider: ProviderOption = "cpu",
    state_dir: StateDirOption = None,
    rollback_window: Annotated[
        float,
        typer.Option("--rollback-window", metavar="S", min=0, help="Seconds that a replaced generation stays warm."),
    ] = 60.0,
) -> None:
    """Serve models: the Open Inference Protocol v2 over HTTP, and POST /predict for images.

    A model is served under its bundle's name or its file's stem. Requests wait in the model's worker and run in batches
    as they come. A worker that dies is started again and what it held is run once more. SIGTERM answers what was
    admitted, then ends.
    """
    import asyncio

    from ranksmith.cli.output import make_progress, verbosity
    from ranksmith.data.labels import read_labels
    from ranksmith.data.preprocess import named_or_file
    from ranksmith.errors import UsageError
    from ranksmith.runtime.session import default_threads
    from ranksmith.serve import logs
    from ranksmith.serve.messages import WorkerSpec
    from ranksmith.serve.supervisor.run import Options, Served, Supervisor
    from ranksmith.workflow.source import resolve

    progress = make_progress()
    sources = [resolve(target, progress=progress) for target in targets]
    twice = [name for name, times in Counter(source.name for source in sources).items() if times > 1]
    if twice:
        raise UsageError(f"two models would be served as {twice[0]!r}", hint="rename one of the files or bundles")
    asked = named_or_file(preprocess) if preprocess is not None else None
    names = list(read_labels(labels).lines) if labels is not None else None
    specs = [
        WorkerSpec(
            name=source.name,
            model=str(source.path.resolve()),
            generation=1,
            preprocess=asked or source.preprocess,
            labels=names or source.labels,
            provider=provider,
            threads=threads or max(1, default_threads() // (workers * len(sources))),
            max_batch=max_batch,
        )
        for source in sources
    ]
    logs.configure(quiet=verbosity.quiet)
    options = Options(
        state_dir=directory(state_dir),
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        http_uds=http_uds,
        workers=workers,
        frontends=frontends,
        rollback_s=rollback_window,
    )
    served = [Served(str(source.path.resolve()), spec) for source, spec in zip(sources, specs, strict=True)]
    asyncio.run(Supervisor(served, options).run())
