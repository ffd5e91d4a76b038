"""What outlives the server: which source of each model is active, and a receipt of every swap.

STATE_DIR/active.json          read at the start, replaced atomically by every swap
STATE_DIR/receipts/N.json      one for each swap
STATE_DIR/admin.sock           while the server runs
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from ranksmith.errors import OutputError
from ranksmith.files import atomic_file
from ranksmith.serve.messages import Receipt

__all__ = ["Active", "State"]


class Active(msgspec.Struct, frozen=True, kw_only=True):
    """
    Attributes:
        target: what the command line named.
        source: path of what serves it: the target itself, or the bundle that was deployed.
    """

    target: str
    source: str
    generation: int


@dataclass(frozen=True)
class State:
    """The state directory of one server."""

    directory: Path

    def prepare(self) -> None:
        """
        Raises:
            OutputError: the directory cannot be made.
        """
        try:
            (self.directory / "receipts").mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
        except OSError as error:
            raise OutputError(
                f"{self.directory}: cannot be the state directory: {error.strerror}", hint="choose one with --state-dir"
            ) from error

    @property
    def socket(self) -> Path:
        return self.directory / "admin.sock"

    def active(self) -> dict[str, Active]:
        """By model; nothing where none was written, or what was written cannot be read."""
        try:
            return msgspec.json.decode((self.directory / "active.json").read_bytes(), type=dict[str, Active])
        except (OSError, msgspec.DecodeError):
            return {}

    def write_active(self, active: dict[str, Active]) -> None:
        with atomic_file(self.directory / "active.json", overwrite=True) as partial:
            partial.write_bytes(msgspec.json.encode(active))

    def write_receipt(self, receipt: Receipt) -> None:
        number = 1 + max((int(path.stem) for path in self._receipts() if path.stem.isdigit()), default=0)
        with atomic_file(self.directory / "receipts" / f"{number}.json", overwrite=True) as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(receipt), indent=2))

    def _receipts(self) -> list[Path]:
        return sorted((self.directory / "receipts").glob("*.json"))
