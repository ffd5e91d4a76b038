"""`ranksmith status`: what a running server serves."""

from __future__ import annotations

from ranksmith.cli.admin import StateDirOption, ask_server
from ranksmith.cli.options import JsonOption

__all__ = ["status"]


def status(state_dir: StateDirOption = None, as_json: JsonOption = False) -> None:
    """Tell what a running server serves: its addresses, and of each model the generations and workers."""
    from ranksmith.cli.output import print_json, show, table
    from ranksmith.serve.messages import Status, StatusReply

    told = ask_server(state_dir, Status())
    if as_json or not isinstance(told, StatusReply):
        print_json(told)
        return
    columns = ("model", "generation", "active", "workers", "from")
    rows = [
        (entry.model, entry.generation, "yes" if entry.is_active else "", len(entry.workers), entry.source)
        for entry in told.generations
    ]
    http = told.http if told.http_uds is None else f"{told.http}, {told.http_uds}"
    show(table(columns, rows, title=f"{http}, gRPC {told.grpc}", right=("generation", "workers")))
