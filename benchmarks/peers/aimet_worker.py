"""AIMET's spatial SVD of an ONNX model, with its own greedy rank selection; runs in AIMET's interpreter.

    python aimet_worker.py REQUEST.json

Nothing of ranksmith is imported: the interpreter needs aimet-torch, torch and onnx only. The model is run as a
torch module whose Convs AIMET replaces; the factors that it put in their place are written back as arrays, so
that its model can be built on the same ONNX graph as every other method's.

The request: `model` (a folded ONNX file), `images` (.npy, float32 [n, c, h, w]), `folder` (results and what must
survive an interruption), `jobs` (list of {"ratio": MACs to keep, "multiplicity": of ranks}), `candidates`,
`kernels` ("all", or "kxk" to leave 1x1 Convs alone) and `threads`. Each job gives RATIO-MULTIPLICITY.npz with
`INDEX.first`, `INDEX.second` and, as text, `nodes` (the name of Conv INDEX).

AIMET scores a candidate by a callback. Ours is minus the mean KL divergence from the uncompressed model, in place
of the accuracy of its examples: on few images accuracies tie, and its selection would be left to chance.
"""

from __future__ import annotations

import json
import os
import sys
import types
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

_BATCH = 8


class _Absent(types.ModuleType):
    """Stands in for torchvision, which AIMET imports but does not use here, where no build of it fits torch."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_aimet() -> tuple[Any, Any, Any]:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        parts = ("datasets", "ops", "transforms")
        sys.modules["torchvision"] = whole = _Absent("torchvision")
        for part in parts:
            sys.modules[f"torchvision.{part}"] = _Absent(f"torchvision.{part}")
            setattr(whole, part, sys.modules[f"torchvision.{part}"])
    from aimet_torch import compress, defs
    from aimet_torch.common import defs as common

    return compress, defs, common


class OnnxModule(torch.nn.Module):
    """An ONNX graph as a torch module: Convs are `torch.nn.Conv2d`, the shape arithmetic around them runs in NumPy."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.source, self.target = graph.input[0].name, graph.output[0].name
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.convs = torch.nn.ModuleDict()
        self.names: list[str] = []
        self.steps: list[tuple[onnx.NodeProto, dict[str, Any], str | None]] = []
        for node in graph.node:
            attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            index = None
            if node.op_type == "Conv":
                index = str(len(self.names))
                self.names.append(node.name)
                self.convs[index] = self._conv(node, attributes)
            self.steps.append((node, attributes, index))

    def _conv(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> torch.nn.Conv2d:
        weight = torch.from_numpy(self.constants[node.input[1]].copy())
        pads = attributes.get("pads", [0, 0, 0, 0])
        if pads[:2] != pads[2:]:
            raise SystemExit(f"{node.name}: AIMET splits symmetrically padded Convs only, not pads {pads}")
        group = attributes.get("group", 1)
        conv = torch.nn.Conv2d(
            weight.shape[1] * group,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=tuple(attributes.get("strides", [1, 1])),
            padding=tuple(pads[:2]),
            dilation=tuple(attributes.get("dilations", [1, 1])),
            groups=group,
            bias=len(node.input) > 2,
        )
        conv.weight.data = weight
        if len(node.input) > 2:
            conv.bias.data = torch.from_numpy(self.constants[node.input[2]].copy())
        return conv

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values: dict[str, Any] = {**self.constants, self.source: images}
        for node, attributes, index in self.steps:
            given = [values[name] if name else None for name in node.input]
            if index is not None:
                result: Any = (self.convs[index](given[0]),)
            else:
                result = self._step(node, attributes, given)
            values.update(zip(node.output, result, strict=False))
        return values[self.target]

    def _step(self, node: onnx.NodeProto, attributes: dict[str, Any], given: list[Any]) -> tuple[Any, ...]:
        """One operator that is no Conv. What weighs is done by torch, the rest by onnx's reference evaluator."""
        tensor = isinstance(given[0], torch.Tensor)
        if node.op_type == "Relu" and tensor:
            return (functional.relu(given[0]),)
        if node.op_type == "Add" and all(isinstance(value, torch.Tensor) for value in given):
            return (given[0] + given[1],)
        if node.op_type == "GlobalAveragePool":
            return (given[0].mean(dim=(2, 3), keepdim=True),)
        if node.op_type == "MaxPool":
            pads = attributes.get("pads", [0, 0, 0, 0])
            if pads[:2] == pads[2:] and not attributes.get("ceil_mode"):
                return (functional.max_pool2d(given[0], attributes["kernel_shape"], attributes["strides"], pads[:2]),)
        feeds = {name: _array(value) for name, value in zip(node.input, given, strict=True) if name}
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
            for name, value in feeds.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        graph = helper.make_graph([node], "step", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        results = ReferenceEvaluator(model).run(None, feeds)
        return tuple(torch.from_numpy(np.array(r)) if np.asarray(r).dtype == np.float32 else r for r in results)


def _array(value: Any) -> np.ndarray:
    return value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


class Scores:
    """Minus the KL divergence from the uncompressed model, remembered by the ranks that a model has."""

    def __init__(self, model: OnnxModule, images: torch.Tensor, path: Path) -> None:
        self.images, self.path = images, path
        self.known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        self.reference = self._logarithms(model)

    def __call__(self, model: OnnxModule, iterations: int | None = None, use_cuda: bool = False) -> float:
        key = ",".join(
            f"{index}:{part[0].out_channels}"
            for index, part in model.convs.items()
            if isinstance(part, torch.nn.Sequential)
        )
        if key not in self.known:
            own = self._logarithms(model)
            divergence = (self.reference.exp() * (self.reference - own)).sum(dim=1).mean()
            self.known[key] = -float(divergence)
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.known))
            partial.replace(self.path)
            print(f"scored {len(self.known)}: {key or 'uncompressed'} {self.known[key]:.5f}", flush=True)
        return self.known[key]

    def _logarithms(self, model: OnnxModule) -> torch.Tensor:
        with torch.no_grad():
            answers = torch.cat([model(batch) for batch in self.images.split(_BATCH)])
        return functional.log_softmax(answers.double().flatten(1), dim=1)


def compressed(model: OnnxModule, score: Scores, request: dict[str, Any], ratio: float, multiplicity: int) -> Any:
    compress, defs, common = import_aimet()
    greedy = common.GreedySelectionParameters(
        target_comp_ratio=Decimal(str(ratio)), num_comp_ratio_candidates=request["candidates"]
    )
    ignored = [
        conv
        for conv in model.convs.values()
        if conv.dilation != (1, 1) or (request["kernels"] == "kxk" and conv.kernel_size == (1, 1))
    ]
    parameters = defs.SpatialSvdParameters(
        defs.SpatialSvdParameters.Mode.auto,
        defs.SpatialSvdParameters.AutoModeParams(greedy, modules_to_ignore=ignored),
        multiplicity=multiplicity,
    )
    found, _ = compress.ModelCompressor.compress_model(
        model,
        eval_callback=score,
        eval_iterations=None,
        input_shape=(1, *score.images.shape[1:]),
        compress_scheme=common.CompressionScheme.spatial_svd,
        cost_metric=common.CostMetric.mac,
        parameters=parameters,
    )
    return found


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(request["folder"])
    os.chdir(folder)  # AIMET writes ./data
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)  # AIMET finds shapes out by a random input
    model = OnnxModule(onnx.load(request["model"])).eval()
    images = torch.from_numpy(np.load(request["images"]))
    score = Scores(model, images, folder / "scores.json")
    for job in request["jobs"]:
        found = compressed(model, score, request, job["ratio"], job["multiplicity"])
        arrays: dict[str, np.ndarray] = {"nodes": np.array(model.names)}
        for index, part in found.convs.items():
            if isinstance(part, torch.nn.Sequential):
                arrays[f"{index}.first"] = part[0].weight.detach().numpy()
                arrays[f"{index}.second"] = part[1].weight.detach().numpy()
        target = folder / f"{job['ratio']:g}-{job['multiplicity']}.npz"
        with target.with_suffix(".partial").open("wb") as stream:
            np.savez(stream, **arrays)
        target.with_suffix(".partial").replace(target)
        print(f"ratio {job['ratio']:g}, multiplicity {job['multiplicity']}: {(len(arrays) - 1) // 2} Convs split")


if __name__ == "__main__":
    main()
