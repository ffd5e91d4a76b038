"""`ranksmith rollback`: back to what a running server served before."""

from __future__ import annotations

from ranksmith.cli.admin import ModelOption, StateDirOption, ask_server
from ranksmith.cli.options import JsonOption

__all__ = ["rollback"]


def rollback(model: ModelOption = None, state_dir: StateDirOption = None, as_json: JsonOption = False) -> None:
    """Go back to the generation that was active before the last swap; at once where it is still warm."""
    from ranksmith.cli.output import print_json, show
    from ranksmith.serve.messages import Receipt, Rollback

    receipt = ask_server(state_dir, Rollback(model=model))
    if as_json or not isinstance(receipt, Receipt):
        print_json(receipt)
        return
    show(f"{receipt.model}: generation {receipt.new_generation} is active again ({'; '.join(receipt.checks)})")
