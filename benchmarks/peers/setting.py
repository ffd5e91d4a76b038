"""What all methods share: the model, the images each may see, and the images that all are judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ranksmith.convolution import ConvLayer
from ranksmith.data.dataset import Dataset
from ranksmith.data.split import split
from ranksmith.graph import io
from ranksmith.graph.query import conv_context, conv_infos, conv_layer
from ranksmith.progress import Progress
from ranksmith.results import Preprocess
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.decompose import load_folded
from ranksmith.workflow.inputs import open_inputs
from ranksmith.workflow.source import ModelSource

__all__ = ["Candidate", "Method", "Setting", "open_setting"]


@dataclass(frozen=True)
class Candidate:
    """One model of a method, not built yet.

    Attributes:
        parameter: what the method is turned by, larger is milder; None where there is no such number.
        recipe: all that the model's bytes depend on, besides the source and the calibration images.
        build: makes the serialized model.
    """

    method: str
    label: str
    recipe: Mapping[str, Any]
    build: Callable[[], bytes] = field(repr=False)
    parameter: float | None = None


@dataclass(frozen=True)
class Method:
    """A way to make the model faster.

    Attributes:
        name: a word, for files and JSON.
        title: for a table.
        at: makes a candidate of a parameter, where a range of them exists.
        from_original: the folded original is its mildest model, as for all that only factor; not for int8.
        about: what was done, in a sentence.
    """

    name: str
    title: str
    about: str
    candidates: list[Candidate]
    at: Callable[[float], Candidate] | None = None
    from_original: bool = True


@dataclass(frozen=True, eq=False)
class Setting:
    """One model and its images.

    Attributes:
        folded: the normalised and folded model; clone it before changing it.
        layers: candidates for decomposition by node.
        input_hw: (height, width) of each candidate's input.
        calibration_set, calibration: the images that every method may see.
        dataset, judged: those that none may.
    """

    source: ModelSource
    source_sha256: str
    folded: ir.Model
    folded_bytes: bytes
    layers: dict[str, ConvLayer]
    input_hw: dict[str, tuple[int, int]]
    preprocess: Preprocess
    calibration_set: Dataset
    calibration: NDArray[np.int64]
    calibration_sha256: str
    asked_calibration: int
    dataset: Dataset
    judged: NDArray[np.int64]
    seed: int
    threads: int
    cache: Cache
    work: Path
    progress: Progress


def open_setting(
    source: ModelSource,
    *,
    data: Path | None,
    calibration_data: Path | None,
    preprocess: str | None,
    calibration: int,
    limit: int | None,
    with_selection: bool,
    seed: int,
    threads: int,
    work: Path,
    progress: Progress,
) -> Setting:
    """Fold the model and split the images as `ranksmith compress` does with the same seed and calibration count.

    Args:
        limit: judge on the first so many of the held-out images.
        with_selection: judge on the selection images too; only `compress`'s choice among its plans sees them, and
            all plans are compared here.
    """
    inputs = open_inputs(source, data=data, calibration_data=calibration_data, preprocess=preprocess, progress=progress)
    own = inputs.calibration
    chosen = split(inputs.dataset, calibration=0 if own else calibration, seed=seed)
    taken = split(own, calibration=calibration, seed=seed, calibration_only=True) if own else chosen
    judged = np.concatenate([chosen.holdout, chosen.selection]) if with_selection else chosen.holdout
    folded, _ = load_folded(source)
    nodes = [info.node for info in conv_infos(folded) if info.candidate]
    sizes = {node: conv_context(folded, node).input_hw for node in nodes}
    return Setting(
        source=source,
        source_sha256=io.sha256(source.path),
        folded=folded,
        folded_bytes=io.to_bytes(folded),
        layers={node: conv_layer(folded, node) for node in nodes if sizes[node]},
        input_hw={node: size for node, size in sizes.items() if size},
        preprocess=inputs.preprocess,
        calibration_set=own or inputs.dataset,
        calibration=taken.calibration,
        calibration_sha256=taken.calibration_sha256,
        asked_calibration=calibration,
        dataset=inputs.dataset,
        judged=judged[:limit],
        seed=seed,
        threads=threads,
        cache=Cache(work / "cache"),
        work=work,
        progress=progress,
    )
