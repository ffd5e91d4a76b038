"""ranksmith: make an ONNX vision model faster on the machine it will run on, and prove it.

The names below are loaded when they are first used, so that `import ranksmith` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ranksmith._version import __version__

if TYPE_CHECKING:
    from ranksmith.errors import RanksmithError
    from ranksmith.graph.fold import fold
    from ranksmith.graph.io import load, save
    from ranksmith.measure.bench import bench
    from ranksmith.measure.compare import compare
    from ranksmith.measure.evaluate import evaluate
    from ranksmith.results import Manifest, RankPlan
    from ranksmith.runtime.session import open_session
    from ranksmith.workflow.compress.run import compress

__all__ = [
    "Manifest",
    "RankPlan",
    "RanksmithError",
    "__version__",
    "bench",
    "compare",
    "compress",
    "evaluate",
    "fold",
    "load",
    "open_session",
    "save",
]

_HOMES = {
    "Manifest": "ranksmith.results",
    "RankPlan": "ranksmith.results",
    "RanksmithError": "ranksmith.errors",
    "bench": "ranksmith.measure.bench",
    "compare": "ranksmith.measure.compare",
    "compress": "ranksmith.workflow.compress.run",
    "evaluate": "ranksmith.measure.evaluate",
    "fold": "ranksmith.graph.fold",
    "load": "ranksmith.graph.io",
    "open_session": "ranksmith.runtime.session",
    "save": "ranksmith.graph.io",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
