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
from ranksmith.measure.accuracy import kl
from ranksmith.progress import Advance, Silent
from ranksmith.runtime.session import open_session
from ranksmith.search.candidates import Option
from ranksmith.workflow.build import Builder
from ranksmith.workflow.cache import Cache
from ranksmith.workflow.compress import sensitivity
from ranksmith.workflow.compress.job import CompressOptions, Job, Prepared
from ranksmith.workflow.compress.prepare import prepare
from ranksmith.workflow.compress.sensitivity import damage_curves, damages_in_int8, tried_chain
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


def damage_in_int8(prepared: Prepared, node: str, output: str = "scores") -> float:
    """Of the whole model with one Conv in int8."""
    value = conv_context(prepared.folded, node).input_value
    watched = onnx.load_model_from_string(prepared.folded_bytes)
    if value != "image":
        watched.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
        seen = run(watched, {"image": images_of(prepared)})[value]
    else:
        seen = images_of(prepared)
    model = prepared.folded.clone()
    round_conv(model, node, float(seen.min()), float(seen.max()))
    return kl(answers(prepared.folded_bytes, prepared, output), answers(io.to_bytes(model), prepared, output))


def test_a_curve_is_what_the_whole_model_loses_by_each_chain(tmp_path: Path) -> None:
    job, prepared, builder = set_up(tmp_path, network())
    listed = options(prepared)
    assert {"block0/conv1", "block1/conv2", "block1/shortcut"} <= set(listed)
    curves = damage_curves(job, prepared, builder, listed, "scores")
    assert list(curves) == list(listed)
    original = answers(prepared.folded_bytes, prepared)
    for node, tried in listed.items():
        assert len(curves[node].points) == 2
        for one in tried:
            model = prepared.folded.clone()
            replace_conv(model, node, tried_chain(job, builder, one))
            expected = kl(original, answers(io.to_bytes(model), prepared))
            assert expected > 0
            assert dict(curves[node].points)[one.error] == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_so_it_is_in_int8_in_whatever_order_the_layers_are_named(tmp_path: Path) -> None:
    job, prepared, _ = set_up(tmp_path, network())
    nodes = [info.node for info in reversed(prepared.infos)]
    found = damages_in_int8(job, prepared, nodes, "scores")
    assert list(found) == nodes
    for node in nodes:
        # What lies on the edge between two levels falls to either side.
        assert found[node] == pytest.approx(damage_in_int8(prepared, node), rel=0.05)


def test_layers_that_were_measured_are_remembered_and_the_others_give_the_same(tmp_path: Path) -> None:
    job, prepared, _ = set_up(tmp_path, network())
    nodes = [info.node for info in prepared.infos]
    first = damages_in_int8(job, prepared, nodes[2:4], "scores")
    every = damages_in_int8(job, prepared, nodes, "scores")
    alone = damages_in_int8(replace(job, cache=Cache(tmp_path / "empty")), prepared, nodes, "scores")
    assert every == alone
    assert {node: every[node] for node in first} == first


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
    found = damages_in_int8(job, prepared, ["stem", "early", "late"], f"{output}/scores")
    assert found[other] == 0.0
    for node in ("stem", output):
        assert found[node] == pytest.approx(damage_in_int8(prepared, node, f"{output}/scores"), rel=0.05)
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
    damages_in_int8(job, prepared, [info.node for info in prepared.infos], "scores")
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
        damages_in_int8(replace(job, progress=Impatient()), prepared, nodes, "scores")
    stored = list(job.cache.directory.glob("sensitivity-*.json"))
    assert len(stored) == 1


def test_without_images_there_is_nothing_to_measure(tmp_path: Path) -> None:
    job, prepared, builder = set_up(tmp_path, network())
    job = replace(job, options=replace(job.options, sensitivity=0))
    curves = damage_curves(job, prepared, builder, options(prepared), "scores")
    assert all(not curve.points for curve in curves.values())
    assert damages_in_int8(job, prepared, ["stem"], "scores") == {"stem": 0.0}
