"""Spectra of a model's Convs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import ModelError, NodeNotFoundError
from ranksmith.graph.query import conv_layer
from ranksmith.lowrank.spectra import retained_energy, weight_energy
from ranksmith.progress import Silent
from ranksmith.results import SpectrumReport
from ranksmith.workflow import spectrum
from ranksmith.workflow.decompose import load_folded
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import gather
from tests.models import save
from tests.unit.workflow.scene import PREPROCESS, Net, flat_network, network, pictures

IMAGES = pictures(12)
DATA = ArrayDataset("pictures", IMAGES)


def spectra_of(source: ModelSource, **options: Any) -> SpectrumReport:
    given: dict[str, Any] = {"nodes": None, "limit": None, "threads": 1, "progress": Silent()}
    return spectrum.run(source, DATA, PREPROCESS, **(given | options))


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    return ModelSource(path=save(network(), tmp_path / "model.onnx"), name="mine")


def test_every_conv_has_a_curve_that_rises_to_one(source: ModelSource) -> None:
    report = spectra_of(source)
    assert (report.model, report.data, report.images) == ("mine", "pictures", 12)
    names = [entry.node for entry in report.spectra]
    assert names == ["stem", *(f"block0/conv{n}" for n in (1, 2)), "block1/conv1", "block1/conv2", "block1/shortcut"]
    for entry in report.spectra:
        for curve in (entry.output, entry.weight):
            assert curve == sorted(curve)
            assert curve[0] > 0
            assert curve[-1] == 1.0
    assert len(report.spectra[0].output) == 16
    assert len(report.spectra[-1].weight) == 16


def test_curves_are_those_of_the_folded_layer_over_these_images(source: ModelSource) -> None:
    report = spectra_of(source, nodes=["block1/conv1"])
    folded, _ = load_folded(source)
    needs: Any = {"block1/conv1": ["output"]}
    options: Any = {"dataset": DATA, "indices": range(12), "preprocess": PREPROCESS, "threads": 1}
    found = gather(folded, needs, progress=Silent(), **options)
    expected = retained_energy(found.output["block1/conv1"].covariance)
    np.testing.assert_allclose(report.spectra[0].output, expected, rtol=1e-9)
    np.testing.assert_allclose(report.spectra[0].weight, weight_energy(conv_layer(folded, "block1/conv1")))


def test_only_the_nodes_that_were_asked_for_in_their_order(source: ModelSource) -> None:
    nodes = ["block1/conv2", "stem"]
    assert [entry.node for entry in spectra_of(source, nodes=nodes).spectra] == nodes


def test_the_number_of_images_can_be_limited(source: ModelSource) -> None:
    assert spectra_of(source, limit=5, nodes=["stem"]).images == 5
    assert spectra_of(source, limit=500, nodes=["stem"]).images == 12


def test_a_limited_number_is_drawn_by_the_seed(source: ModelSource) -> None:
    drawn = [spectra_of(source, limit=3, nodes=["stem"], seed=seed).spectra[0].output for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_a_node_that_is_no_conv_is_answered_with_the_nearest(source: ModelSource) -> None:
    with pytest.raises(NodeNotFoundError, match="no Conv named 'block1/conv7'") as caught:
        spectra_of(source, nodes=["block1/conv7"])
    assert "block1/conv" in str(caught.value.hint)


def test_a_model_without_convs_is_refused(tmp_path: Path) -> None:
    source = ModelSource(path=save(flat_network(), tmp_path / "flat.onnx"), name="flat")
    with pytest.raises(ModelError, match=r"flat\.onnx has no 2-D Conv"):
        spectra_of(source)


def test_a_batch_that_is_fixed_to_one_is_taken_image_by_image(tmp_path: Path, source: ModelSource) -> None:
    fixed = ModelSource(path=save(network(Net(batch=1)), tmp_path / "one.onnx"), name="one")
    found, expected = (spectra_of(which, nodes=["block0/conv1"]).spectra[0] for which in (fixed, source))
    np.testing.assert_allclose(found.output, expected.output, rtol=1e-5)


def test_depthwise_convs_have_spectra_too(tmp_path: Path) -> None:
    path = save(network(Net(widths=(8,), depthwise=True)), tmp_path / "depthwise.onnx")
    report = spectra_of(ModelSource(path=path, name="depthwise"))
    assert [entry.node for entry in report.spectra] == ["stem", "block0/conv1", "block0/conv2"]
