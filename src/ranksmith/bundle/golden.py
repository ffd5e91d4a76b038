"""`golden.npz`: a few inputs with the outputs that this very model gave when the bundle was built.

Arrays are stored as `input:NAME` and `output:NAME`, the first axis counting the samples. Nothing is
ever unpickled, and the same arrays give the same bytes.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranksmith.errors import BundleError

__all__ = ["Arrays", "load_golden", "save_golden"]

Arrays = dict[str, NDArray[Any]]
_KINDS = ("input:", "output:")


def save_golden(path: Path, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
    """Write inputs and outputs by their names in the model, each [samples, …].

    Raises:
        ValueError: there are none, or they do not hold equally many samples.
    """
    problem = _problem(inputs, outputs)
    if problem:
        raise ValueError(f"golden samples: {problem}")
    arrays: Arrays = {f"input:{name}": array for name, array in inputs.items()}
    arrays |= {f"output:{name}": array for name, array in outputs.items()}
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def load_golden(path: Path) -> tuple[Arrays, Arrays]:
    """The (inputs, outputs) by name.

    Raises:
        BundleError: the file is missing, damaged, or not of this form.
    """
    try:
        # Opened here: given a path, NumPy leaves the file open when it is not an archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such file; the bundle is incomplete", hint="build the bundle again") from error
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path} cannot be read: {error}", hint="build the bundle again") from error
    inputs, outputs = ({key.removeprefix(k): arrays[key] for key in arrays if key.startswith(k)} for k in _KINDS)
    problem = _problem(inputs, outputs)
    if problem:
        raise BundleError(f"{path}: {problem}", hint="build the bundle again")
    return inputs, outputs


def _problem(inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> str | None:
    if not inputs or not outputs:
        return f"it holds no {'outputs' if inputs else 'inputs'}"
    counts = {len(array) if array.ndim else 0 for array in (*inputs.values(), *outputs.values())}
    if len(counts) != 1 or 0 in counts:
        return "inputs and outputs do not hold equally many samples"
    return None
