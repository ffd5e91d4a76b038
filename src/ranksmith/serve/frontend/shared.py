"""The counts of all front ends, where each of them can read them.

FOLDER/PID-….counts   one for each process and version of a model: its counts, then whose they are: [model, generation]

A process adds to its own in place, through a mapping: others see it at once, and it outlives a process that is killed.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import msgspec

from ranksmith.serve.frontend.counts import COUNTS_BYTES, Counts

__all__ = ["SharedCounts", "settle"]

_SUFFIX = ".counts"
_WHOSE = msgspec.json.Decoder(tuple[str, int])


class SharedCounts:
    """The counts of this process, and through them those of all.

    Args:
        folder: that the processes have in common; None: this one is alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._own: dict[tuple[str, int], Counts] = {}

    def own(self, model: str, generation: int) -> Counts:
        """This process's, to add to."""
        found = self._own.get((model, generation))
        if found is None:
            memory = None if self._folder is None else self._mapped(self._folder, model, generation)
            found = self._own[model, generation] = Counts(memory)
        return found

    def all(self) -> dict[tuple[str, int], Counts]:
        """Those of all processes together, by model and generation."""
        if self._folder is None:
            return dict(self._own)
        found: dict[tuple[str, int], Counts] = {}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            content = bytearray(path.read_bytes())
            whose = _WHOSE.decode(content[COUNTS_BYTES:])
            found.setdefault(whose, Counts()).add(Counts(memoryview(content)[:COUNTS_BYTES]))
        return dict(sorted(found.items()))

    def _mapped(self, folder: Path, model: str, generation: int) -> memoryview:
        descriptor, name = tempfile.mkstemp(".partial", f"{os.getpid()}-", folder)
        partial = Path(name)
        with os.fdopen(descriptor, "r+b") as file:
            file.write(bytes(COUNTS_BYTES) + msgspec.json.encode((model, generation)))
            file.flush()
            memory = mmap.mmap(file.fileno(), COUNTS_BYTES)
        # Only now, so that no reader finds it half written.
        partial.rename(partial.with_suffix(_SUFFIX))
        return memoryview(memory)


def settle(folder: Path, pid: int) -> None:
    """A process has gone: what it counted stays, but nothing is in flight there any more."""
    for path in folder.glob(f"{pid}-*{_SUFFIX}"):
        with path.open("r+b") as file:
            Counts(memoryview(mmap.mmap(file.fileno(), COUNTS_BYTES))).settle()
