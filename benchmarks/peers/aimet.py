"""AIMET's spatial SVD with its greedy rank selection, run by `aimet_worker.py` in an interpreter that has AIMET.

AIMET 2.42 (`aimet_torch.compress.ModelCompressor`) decides the ranks and makes the factors; they are then put into
the folded ONNX graph as every other method's, so that no exporter stands between its model and the clock.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from ranksmith.convolution import ConvLayer
from ranksmith.data.loader import make_batch
from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.query import conv_layer
from ranksmith.workflow.cache import key_of

from .setting import Candidate, Method, Setting

__all__ = ["spatial_svd", "version"]

_WORKER = Path(__file__).with_name("aimet_worker.py")


@cache
def version(python: str) -> str | None:
    """The version of aimet-torch that `python` has; None where it has none."""
    command = "from importlib.metadata import version; print(version('aimet-torch'), version('torch'))"
    found = subprocess.run([python, "-c", command], capture_output=True, text=True, check=False)
    return None if found.returncode else "aimet-torch {} with torch {}".format(*found.stdout.split())


def spatial_svd(
    setting: Setting, python: str, ratios: list[float], *, multiplicity: int, images: int, steps: int, kernels: str
) -> Method:
    """AIMET at several shares of the multiply-adds.

    Args:
        python: an interpreter with aimet-torch and onnx.
        multiplicity: of ranks; AIMET's own option.
        images: calibration images that a layer's candidates are scored on.
        steps: AIMET's number of compression ratio candidates a layer; one fewer are scored.
        kernels: "all", or "kxk" to leave 1x1 Convs alone.
    """
    name = "aimet-spatial-svd" + ("" if multiplicity > 1 else "-unaligned")
    used = setting.calibration[:images]
    conditions = {"aimet": version(python), "images": len(used), "steps": steps, "kernels": kernels}
    # Scores do not depend on ratio or multiplicity: one folder serves every job.
    key = key_of("aimet", source=setting.source_sha256, calibration=setting.calibration_sha256, **conditions)
    folder = setting.work / key

    def build(ratio: float) -> bytes:
        folder.mkdir(parents=True, exist_ok=True)
        result = folder / f"{ratio:g}-{multiplicity}.npz"
        if not result.exists():
            (folder / "folded.onnx").write_bytes(setting.folded_bytes)
            np.save(folder / "images.npy", make_batch(setting.calibration_set, used, setting.preprocess).images)
            request = {
                "model": str(folder / "folded.onnx"),
                "images": str(folder / "images.npy"),
                "folder": str(folder),
                "jobs": [{"ratio": ratio, "multiplicity": multiplicity}],
                "candidates": steps,
                "kernels": kernels,
                "threads": setting.threads,
            }
            (folder / "request.json").write_text(json.dumps(request))
            with (folder / "log.txt").open("a") as log:
                command = [python, str(_WORKER), str(folder / "request.json")]
                done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                raise SystemExit(f"AIMET failed; its output is in {folder / 'log.txt'}")
        return _rebuilt(setting, result)

    def candidate(ratio: float) -> Candidate:
        ratio = round(ratio, 4)
        return Candidate(
            method=name,
            label=f"{ratio:g} of the MACs",
            parameter=ratio,
            recipe={**conditions, "ratio": ratio, "multiplicity": multiplicity},
            build=lambda: build(ratio),
        )

    which = "every Conv" if kernels == "all" else "every Conv larger than 1×1"
    ranks = f"ranks multiples of {multiplicity}" if multiplicity > 1 else "ranks as they come"
    return Method(
        name=name,
        title=f"AIMET spatial SVD, {'aligned' if multiplicity > 1 else 'unaligned'}",
        about=f"{version(python)}: {which}, greedy selection over {steps - 1} ratios a layer, scored by KL on "
        f"{len(used)} calibration images, {ranks}",
        candidates=[candidate(ratio) for ratio in ratios],
        at=candidate,
    )


def _rebuilt(setting: Setting, result: Path) -> bytes:
    model = setting.folded.clone()
    with np.load(result, allow_pickle=False) as arrays:
        for index, node in enumerate(arrays["nodes"].tolist()):
            if f"{index}.first" in arrays:
                layer = conv_layer(model, node)
                replace_conv(model, node, _chain(layer, arrays[f"{index}.first"], arrays[f"{index}.second"]))
    return io.to_bytes(model)


def _chain(layer: ConvLayer, first: np.ndarray, second: np.ndarray) -> tuple[ConvLayer, ConvLayer]:
    (vertical, horizontal), (top, left, bottom, right) = layer.strides, layer.pads
    return (
        replace(layer, weight=first, bias=None, strides=(vertical, 1), pads=(top, 0, bottom, 0)),
        replace(layer, weight=second, strides=(1, horizontal), pads=(0, left, 0, right)),
    )
