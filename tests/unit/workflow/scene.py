"""A small classifier that behaves like a trained one, and images that it tells apart.

Random weights and noise make a poor test of compression: every feature map has a flat spectrum and every image
the same class. Here the wide layers have a spectrum that decays, the images differ in colour and pattern, and
the last layer is fitted to spread the images evenly over the classes. The labels are the model's own answers, so
the original's top-1 is 1 and what is lost is lost by compression.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from ranksmith.data.npz import ArrayDataset
from ranksmith.results import Preprocess
from ranksmith.runtime.session import Feeds, Session, open_session
from tests.models import GraphBuilder, run

HW = 12
CLASSES = 10
PREPROCESS = Preprocess(name="test", size=(HW, HW), mean=(127.5, 127.5, 127.5), std=(64.0, 64.0, 64.0))

Array = NDArray[Any]


def pictures(count: int, *, seed: int = 0, side: int = HW) -> NDArray[np.uint8]:
    """Images uint8 [count, side, side, 3]: a colour, a gradient and a grating each, and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    colour = rng.uniform(50, 200, (count, 1, 1, 3))
    slope = rng.normal(0, 50, (count, 2, 1, 1, 3))
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1))
    wave = rng.integers(0, 4, (count, 2, 1, 1, 1))
    grating = np.sin(2 * np.pi * (wave[:, 0] * x[..., None] + wave[:, 1] * y[..., None]) + phase)
    image = colour + slope[:, 0] * (x - 0.5)[..., None] + slope[:, 1] * (y - 0.5)[..., None]
    image = image + rng.uniform(10, 60, (count, 1, 1, 3)) * grating + rng.normal(0, 4, (count, side, side, 3))
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def inputs_of(images: NDArray[np.uint8], preprocess: Preprocess = PREPROCESS) -> NDArray[np.float32]:
    """What `PREPROCESS` makes of images that have its size already: float32 [N, 3, h, w]."""
    mean, std = np.asarray(preprocess.mean, np.float32), np.asarray(preprocess.std, np.float32)
    return np.ascontiguousarray(((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Net:
    """What `network` builds: a stem and one basic block a width.

    Attributes:
        widths: channels of the blocks.
        spectrum: how fast the weights' singular values decay (0: not at all).
        batch: the batch dimension.
        depthwise, pointwise: 3×3 Convs are depthwise; Convs are 1×1.
    """

    widths: Sequence[int] = (16, 32)
    spectrum: float = 0.35
    batch: int | str = "N"
    image: tuple[int | str, int | str] = (HW, HW)
    kernel: int = 3
    depthwise: bool = False
    seed: int = 0


def network(net: Net | None = None) -> onnx.ModelProto:
    """Input `image` [N, 3, HW, HW], output `scores` [N, CLASSES]; nodes as in `tests.models.residual_classifier`."""
    net = net or Net()
    build = GraphBuilder(seed=net.seed)

    def conv(x: str, name: str, channels: tuple[int, int], stride: int = 1, kernel: int = net.kernel) -> str:
        pad = kernel // 2
        group = channels[0] if net.depthwise and channels[0] == channels[1] else 1
        y = build.conv(x, name, channels, kernel=kernel, group=group, pads=[pad] * 4, strides=[stride] * 2)
        build.initializers[-1].CopyFrom(_decaying(build.initializers[-1], net.spectrum))
        return build.batch_norm(y, f"{name}/bn", channels[1])

    x = build.input("image", [net.batch, 3, *net.image])
    x = build.node("Relu", [conv(x, "stem", (3, net.widths[0]))], "stem/relu")
    inside = net.widths[0]
    for index, width in enumerate(net.widths):
        name, stride = f"block{index}", 1 if index == 0 else 2
        y = build.node("Relu", [conv(x, f"{name}/conv1", (inside, width), stride)], f"{name}/relu1")
        y = conv(y, f"{name}/conv2", (width, width))
        if index:
            x = conv(x, f"{name}/shortcut", (inside, width), stride, 1)
        x = build.node("Relu", [build.node("Add", [y, x], f"{name}/add")], f"{name}/relu2")
        inside = width
    x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "pool")], "flat")
    fc = [x, build.weights("fc_weight", (CLASSES, inside)), build.weights("fc_bias", (CLASSES,))]
    build.output(build.node("Gemm", fc, "scores", name="fc", transB=1), [net.batch, CLASSES])
    return build.model()


def flat_network(*, seed: int = 0) -> onnx.ModelProto:
    """A classifier of the same images without any Conv."""
    build = GraphBuilder(seed=seed)
    x = build.node("Flatten", [build.input("image", ["N", 3, HW, HW])], "flat")
    fc = [x, build.weights("fc_weight", (CLASSES, 3 * HW * HW)), build.weights("fc_bias", (CLASSES,))]
    build.output(build.node("Gemm", fc, "scores", name="fc", transB=1), ["N", CLASSES])
    return build.model()


def trained(model: onnx.ModelProto, *, seed: int = 7, whiten: bool = True) -> onnx.ModelProto:
    """`model` with its last layer fitted so that pictures fall evenly into the classes.

    Args:
        whiten: let small features count as much as large ones; a model that does cannot be quantized.
    """
    x = inputs_of(pictures(200, seed=seed))
    features = features_of(model, x)
    rng = np.random.default_rng(seed)
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    _, _, axes = np.linalg.svd(scaled, full_matrices=False)
    few = axes[: min(8, len(axes))]
    weight = rng.standard_normal((CLASSES, len(few))) @ few / ((features.std(0) if whiten else features.std()) + 1e-6)
    bias = -weight @ features.mean(0)
    replace(model, {"fc_weight": weight, "fc_bias": bias})
    return model


def features_of(model: onnx.ModelProto, x: Array) -> Array:
    """The values `flat` that the last layer reads, image by image (the batch may be fixed)."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, None))
    size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(x)
    parts = [run(watched, {"image": x[i : i + size]})["flat"] for i in range(0, len(x), size)]
    return np.concatenate(parts).astype(np.float64)


def answers(model: onnx.ModelProto | bytes | Path, x: Array) -> Array:
    """The scores [N, CLASSES] of plain onnxruntime, one image at a time."""
    return np.concatenate([run(model, {"image": image[None]})["scores"] for image in x])


def labelled(model: onnx.ModelProto, count: int, *, seed: int = 1) -> ArrayDataset:
    """Pictures labelled by the model's own answers."""
    images = pictures(count, seed=seed)
    labels = answers(model, inputs_of(images)).argmax(1)
    return ArrayDataset("pictures", images, labels.astype(np.int64))


def replace(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> None:
    """Put other values into initializers."""
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            kind = numpy_helper.to_array(tensor).dtype
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(kind), tensor.name))


def _decaying(tensor: onnx.TensorProto, rate: float) -> onnx.TensorProto:
    """The same weight with singular values that fall as exp(−rate · index), and its old magnitude."""
    weight = numpy_helper.to_array(tensor)
    left, values, right = np.linalg.svd(weight.reshape(len(weight), -1), full_matrices=False)
    faded = values * np.exp(-rate * np.arange(len(values)))
    faded *= np.linalg.norm(values) / np.linalg.norm(faded)
    return numpy_helper.from_array(((left * faded) @ right).reshape(weight.shape).astype(np.float32), tensor.name)


class Machine:
    """A machine that times as it is told, so that a verdict does not depend on the one the tests run on.

    `use` puts it in place of the clock in every stage of `compress`; models still run, once each.

    Attributes:
        ratios: by batch size, how many times as fast as the original a model is in which a Conv was decomposed or
            quantized.
        slower: nodes whose chain takes longer in the whole model than the Conv did.
        noise: by how much, relatively, one round's ratio strays from another's.
        rounds: how many rounds each measurement had, in order.
    """

    def __init__(
        self, *, ratios: Mapping[int, float] | None = None, slower: Sequence[str] = (), noise: float = 0.001
    ) -> None:
        self.ratios = ratios or {}
        self.slower = slower
        self.noise = noise
        self.rounds: list[int] = []
        self._running: onnx.ModelProto | None = None

    def use(self, monkeypatch: pytest.MonkeyPatch) -> Machine:
        replace_in_compress(monkeypatch, "open_session", self._open_session)
        replace_in_compress(monkeypatch, "paired_latency", self._paired_latency)
        replace_in_compress(monkeypatch, "interleaved_node_times", self._interleaved_node_times)
        return self

    def model_ms(self, model: onnx.ModelProto, batch: int) -> float:
        """What a whole model takes."""
        return (1.0 + batch) / (self.ratios.get(batch, 1.5) if _changed(model) else 1.0)

    def conv_ms(self, model: onnx.ModelProto) -> dict[str, float]:
        """What each Conv of a model takes."""
        names = [node.name for node in model.graph.node if node.op_type == "Conv"]
        chained = [name for name in names if name.endswith(_CHAINED)]
        times = dict.fromkeys(names, 1.0) | dict.fromkeys(chained, 0.25)
        return times | {name: 0.75 for name in chained if name.rpartition("/")[0] in self.slower}

    def _open_session(self, model: Path | bytes, **options: Any) -> _Watched:
        return _Watched(open_session(model, **options), onnx.load(model) if isinstance(model, Path) else model, self)

    def _paired_latency(self, runners: Sequence[Callable[[], Any]], *, pairs: int, seed: int, **_: Any) -> Array:
        self.rounds.append(pairs)
        times = []
        for runner in runners:
            batch = len(runner()[0])
            assert self._running is not None
            times.append(self.model_ms(self._running, batch))
        drift = 1 + 0.01 * np.random.default_rng(seed).standard_normal((pairs, 1))
        samples = np.asarray(times * drift)
        samples[:, 1:] /= np.exp(self.noise * np.random.default_rng(seed + 1).standard_normal((pairs, 1)))
        return samples

    def _interleaved_node_times(self, models: Sequence[bytes], feeds: object, **_: Any) -> list[dict[str, float]]:
        return [self.conv_ms(onnx.load_from_string(model)) for model in models]


class Arithmetic(Machine):
    """A machine on which time is the size of the weights that are multiplied by, and int8 takes a third of it.

    What compress finds out about it is the same at every run, so the objective can be "latency".
    """

    def model_ms(self, model: onnx.ModelProto, batch: int) -> float:
        return batch * (0.5 + sum(self.conv_ms(model).values()))

    def conv_ms(self, model: onnx.ModelProto) -> dict[str, float]:
        made = {node.output[0]: node for node in model.graph.node}
        sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
        times = {}
        for node in model.graph.node:
            if node.op_type == "Conv":
                source = made.get(node.input[1])
                ms = sizes[node.input[1] if source is None else source.input[0]] / (1000 if source is None else 3000)
                times[node.name] = ms * (4 if node.name.rpartition("/")[0] in self.slower else 1)
        return times


class _Watched:
    """A session that tells a `Machine` which model runs."""

    def __init__(self, session: Session, model: onnx.ModelProto | bytes, machine: Machine) -> None:
        self._session = session
        self._model = onnx.load_from_string(model) if isinstance(model, bytes) else model
        self._machine = machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        self._machine._running = self._model
        return self._session.run(feeds, outputs)


_CHAINED = ("1of2", "2of2", "1of3", "2of3", "3of3")


def _changed(model: onnx.ModelProto) -> bool:
    """Whether a Conv of a model, or what stands for it in context, was decomposed or quantized."""
    return any(
        node.op_type == "QuantizeLinear" or node.name.endswith(_CHAINED) or node.name == "layer1"
        for node in model.graph.node
    )


def replace_in_compress(monkeypatch: pytest.MonkeyPatch, name: str, function: object) -> None:
    """Put `function` in the place of `name` wherever `compress` uses it."""
    importlib.import_module("ranksmith.workflow.compress.run")
    modules = [module for key, module in sys.modules.items() if key.startswith("ranksmith.workflow.compress.")]
    users = [module for module in modules if hasattr(module, name)]
    assert users, f"compress does not use {name}"
    for module in users:
        monkeypatch.setattr(module, name, function)
