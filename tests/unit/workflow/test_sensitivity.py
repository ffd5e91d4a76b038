"""Each layer's damage is what the whole model's answers say, however the model is cut to find it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ranksmith.data.npz import ArrayDataset
from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.graph.query import conv_context
from ranksmith.graph.rounding import round_conv
from ranksmith.measure.accuracy import kl, squared_change
from ranksmith.progress import Advance, Silent
from ranksmith.runtime.session import open_session
from ranksmith.search.candidates import Option
from ranksmith.workflow.build import Builder
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.compress import sensitivity
from ranksmith.workflow.compress.job import CompressOptions, Job, Prepared
from ranksmith.workflow.compress.prepare import prepare
from ranksmith.workflow.compress.sensitivity import measure_damages, tried_chain
from ranksmith.workflow.images import first_batches
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import Statistics
from tests.models import GraphBuilder, run, save
from tests.unit.workflow.scene import CLASSES, HW, PREPROCESS, Array, network, pictures

IMAGES = 12


def set_up(folder: Path, model: onnx.ModelProto) -> tuple[Job, Prepared, Builder]:
    job = Job(
        source=ModelSource(path=save(model, folder / "model.onnx"), name="model"),
        dataset=ArrayDataset("pictures", pictures(60)),
        calibration_dataset=None,
        preprocess=PREPROCESS,
        labels=None,
        options=CompressOptions(output=folder / "bundle", calibration=24, sensitivity=IMAGES, weighted=False),
        progress=Silent(),
        cache=Cache(folder / "cache"),
    )
    prepared = prepare(job)
    return job, prepared, Builder(prepared.folded, Statistics(), threads=1)


def option(prepared: Prepared, node: str, rank: int, error: float) -> Option:
    """One that needs no statistics."""
    layer = prepared.layers[node]
    size = layer.weight.size
    return Option(node, "weight-svd", rank, rank * 100, 1000, rank * 100, size, error)


def options(prepared: Prepared) -> dict[str, list[Option]]:
    return {node: [option(prepared, node, 8, 0.01), option(prepared, node, 5, 0.1)] for node in prepared.candidates}


def images_of(prepared: Prepared) -> Array:
    return np.concatenate([batch.images for batch in first_batches(prepared.calibration.batches(), IMAGES)])


def answers(content: bytes, prepared: Prepared, output: str = "scores") -> Array:
    return run(onnx.load_model_from_string(content), {"image": images_of(prepared)})[output]


def in_int8(prepared: Prepared, node: str) -> bytes:
    """The whole model with one Conv in int8."""
    value = conv_context(prepared.folded, node).input_value
    watched = onnx.load_model_from_string(prepared.folded_bytes)
    if value != "image":
        watched.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
        seen = run(watched, {"image": images_of(prepared)})[value]
    else:
        seen = images_of(prepared)
    model = prepared.folded.clone()
    round_conv(model, node, float(seen.min()), float(seen.max()))
    return io.to_bytes(model)


def in_factors(job: Job, prepared: Prepared, builder: Builder, option: Option) -> bytes:
    """The whole model with one Conv decomposed."""
    model = prepared.folded.clone()
    replace_conv(model, option.node, tried_chain(job, builder, option))
    return io.to_bytes(model)


class Whole:
    """What whole models say: the squared change of each, and the divergence of all per squared change."""

    def __init__(self, prepared: Prepared, output: str = "scores") -> None:
        self.prepared, self.output = prepared, output
        self.original = answers(prepared.folded_bytes, prepared, output)
        self.seen: list[Array] = []

    def squared(self, model: bytes) -> float:
        self.seen.append(answers(model, self.prepared, self.output))
        return squared_change(self.original, self.seen[-1])

    @property
    def rate(self) -> float:
        return sum(kl(self.original, each) for each in self.seen) / sum(
            squared_change(self.original, each) for each in self.seen
        )


def test_damages_are_what_the_whole_model_loses_in_whatever_order_the_layers_are_named(tmp_path: Path) -> None:
    job, prepared, builder = set_up(tmp_path, network())
    listed = options(prepared)
    assert {"block0/conv1", "block1/conv2", "block1/shortcut"} <= set(listed)
    nodes = [info.node for info in reversed(prepared.infos)]
    damages = measure_damages(job, prepared, builder, listed, "scores", nodes)
    assert list(damages.curves) == list(listed)
    assert list(damages.in_int8) == nodes
    whole = Whole(prepared)
    factors = {
        (node, one.error): whole.squared(in_factors(job, prepared, builder, one))
        for node, tried in listed.items()
        for one in tried
    }
    rounded = {node: whole.squared(in_int8(prepared, node)) for node in nodes}
    for node in listed:
        assert len(damages.curves[node].points) == 2
        for error, damage in damages.curves[node].points:
            assert damage == pytest.approx(whole.rate * factors[node, error], rel=1e-2)
            assert damage > 0
    for node in nodes:
        # What lies on the edge between two levels falls to either side.
        assert damages.in_int8[node] == pytest.approx(whole.rate * rounded[node], rel=0.05)


def test_layers_that_were_measured_are_remembered_and_the_others_give_the_same(tmp_path: Path) -> None:
    job, prepared, _ = set_up(tmp_path, network())
    nodes = [info.node for info in prepared.infos]
    only(job, prepared, nodes[2:4])
    progress = Counting()
    every = only(replace(job, progress=progress), prepared, nodes)
    assert progress.counts == [2, *[1] * (len(nodes) - 2)]
    assert every == only(replace(job, cache=Cache(tmp_path / "empty")), prepared, nodes)


class Counting(Silent):
    """Keeps the steps of the last stage."""

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        self.counts: list[int] = []
        yield self.counts.append


def only(job: Job, prepared: Prepared, nodes: list[str], output: str = "scores") -> dict[str, float]:
    """The damages of int8 alone."""
    return measure_damages(job, prepared, Builder(prepared.folded, Statistics(), threads=1), {}, output, nodes).in_int8


def two_headed() -> onnx.ModelProto:
    """After the first answer nothing is a bottleneck any more, and one Conv leads to the second answer only."""
    build = GraphBuilder()
    x = build.node("Relu", [build.conv(build.input("image", ["N", 3, HW, HW]), "stem", (3, 16))], "stem/relu")
    for name in ("early", "late"):
        y = build.node("Relu", [build.conv(x, name, (16, 24))], f"{name}/relu")
        flat = build.node("Flatten", [build.node("GlobalAveragePool", [y], f"{name}/pool")], f"{name}/flat")
        build.output(build.node("Gemm", [flat, build.weights(f"{name}/fc", (24, CLASSES))], f"{name}/scores"))
    for value in build.outputs:
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, ["N", CLASSES]))
    return build.model()


@pytest.mark.parametrize(("output", "other"), [("early", "late"), ("late", "early")])
def test_a_layer_that_the_answer_does_not_depend_on_does_no_damage(tmp_path: Path, output: str, other: str) -> None:
    job, prepared, _ = set_up(tmp_path, two_headed())
    found = only(job, prepared, ["stem", "early", "late"], f"{output}/scores")
    assert found[other] == 0.0
    whole = Whole(prepared, f"{output}/scores")
    squared = {node: whole.squared(in_int8(prepared, node)) for node in ("stem", output)}
    for node in ("stem", output):
        assert found[node] == pytest.approx(whole.rate * squared[node], rel=0.05)
        assert found[node] > 0


def test_what_follows_a_block_is_opened_once_for_all_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, prepared, _ = set_up(tmp_path, network())
    opened: list[list[str]] = []

    def watching(model: bytes, **given: Any) -> object:
        opened.append([node.name for node in onnx.load_model_from_string(model).graph.node])
        return open_session(model, **given)

    monkeypatch.setattr(sensitivity, "open_session", watching)
    only(job, prepared, [info.node for info in prepared.infos])
    # The whole model, what follows the stem and the first block, and the second block with each Conv of its own.
    assert sum("fc" in nodes for nodes in opened) == 1 + 2 + 3


class Impatient(Silent):
    """Interrupts after the first layer."""

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Advance]:
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if done:
                raise KeyboardInterrupt

        yield advance


def test_what_was_measured_before_an_interruption_stays(tmp_path: Path) -> None:
    job, prepared, _ = set_up(tmp_path, network())
    nodes = [info.node for info in prepared.infos]
    with pytest.raises(KeyboardInterrupt):
        only(replace(job, progress=Impatient()), prepared, nodes)
    stored = list(job.cache.directory.glob("moved-*.json"))
    assert len(stored) == 1


def test_without_images_there_is_nothing_to_measure(tmp_path: Path) -> None:
    job, prepared, builder = set_up(tmp_path, network())
    job = replace(job, options=replace(job.options, sensitivity=0))
    damages = measure_damages(job, prepared, builder, options(prepared), "scores", ["stem"])
    assert list(damages.curves) == list(options(prepared))
    assert all(not curve.points for curve in damages.curves.values())
    assert damages.in_int8 == {"stem": 0.0}
