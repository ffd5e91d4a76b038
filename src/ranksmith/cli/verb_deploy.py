"""`ranksmith deploy`: another bundle for a running server, as a transaction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranksmith.cli.admin import ModelOption, StateDirOption, ask_server
from ranksmith.cli.options import JsonOption

__all__ = ["deploy"]


def deploy(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `compress` wrote.", show_default=False)],
    model: ModelOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if inputs or outputs differ from what is served.")
    ] = False,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace a model of a running server by a bundle, without losing a request.

    The bundle is checked, loaded, warmed and has to give its golden outputs before it gets a request. If anything fails
    the old one goes on serving. Requests are answered by the generation that admitted them.
    """
    from ranksmith.cli.output import print_json, show
    from ranksmith.serve.messages import Deploy, Receipt

    receipt = ask_server(state_dir, Deploy(bundle=str(bundle.resolve()), model=model, force=force))
    if as_json or not isinstance(receipt, Receipt):
        print_json(receipt)
        return
    show(f"{receipt.model}: generation {receipt.new_generation} is active, {receipt.old_generation} is drained")
    show(f"loaded and warm in {receipt.load_s:.1f} s; " + "; ".join(receipt.checks))
