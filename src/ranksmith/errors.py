"""Every exception that ranksmith raises on purpose.

    RanksmithError                 an expected failure: one line, optionally a hint; exit code 1
    ├── UsageError                 the command line or an argument is wrong; exit code 2
    │   ├── NodeNotFoundError      no such node or value in the graph
    │   └── RankError              a rank outside 1..full, or a malformed range of ranks
    ├── ModelError                 a model that cannot be read, checked or run
    │   └── ExternalDataError      external data that is missing or lies outside the model's directory
    ├── DataError                  a dataset, image or labels file that cannot be used
    ├── OutputError                an output that exists, or cannot be written (a full disk)
    ├── ProviderError              an execution provider that is not installed here
    ├── FetchError                 a download that failed or has the wrong checksum
    ├── BundleError                a bundle that is incomplete or does not match its manifest
    └── GateError                  the accuracy or speed asked for was not reached; exit code 3

A dependency's own errors are translated into these at one place: the module that calls the dependency.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BundleError",
    "DataError",
    "ExternalDataError",
    "FetchError",
    "GateError",
    "ModelError",
    "NodeNotFoundError",
    "OutputError",
    "ProviderError",
    "RankError",
    "RanksmithError",
    "UsageError",
]


class RanksmithError(Exception):
    """An expected failure.

    Args:
        message: one line that names the file, node or field and says what is wrong.
        hint: what to do about it, one line; shown on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RanksmithError):
    """The command line or an argument is wrong."""

    exit_code = 2


class NodeNotFoundError(UsageError):
    """No node or value of this name; the hint lists the nearest names."""

    def __init__(self, name: str, known: Iterable[str], *, what: str = "node") -> None:
        known = list(known)
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
        hint = f"nearest: {', '.join(nearest)}" if nearest else f"the model has no {what} to choose from"
        super().__init__(f"no {what} named {name!r} in the model", hint=hint)


class RankError(UsageError):
    """A rank outside 1..full, or a malformed range of ranks."""


class ModelError(RanksmithError):
    """A model that cannot be read, checked or run."""


class ExternalDataError(ModelError):
    """External data that is missing or lies outside the model's directory."""


class DataError(RanksmithError):
    """A dataset, image or labels file that cannot be used."""


class OutputError(RanksmithError):
    """An output that exists already, or cannot be written."""


class ProviderError(RanksmithError):
    """An execution provider that is not installed on this machine."""


class FetchError(RanksmithError):
    """A download that failed, or whose checksum is wrong."""


class BundleError(RanksmithError):
    """A bundle that is incomplete or does not match its manifest."""


class GateError(RanksmithError):
    """The accuracy or speed that was asked for was not reached."""

    exit_code = 3
