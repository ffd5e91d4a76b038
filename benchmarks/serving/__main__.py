"""`python benchmarks/serving`, from wherever it is called."""

from __future__ import annotations

import sys
from pathlib import Path

# Started as a directory, Python puts that first, whose modules are not meant to be top-level.
sys.path[0] = str(Path(__file__).parents[2])

from benchmarks.serving.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
