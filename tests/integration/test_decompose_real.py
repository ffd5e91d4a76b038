"""Decomposing real, trained networks: what the data say about a layer is worth more than what its weight says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranksmith.cli.app import run
from ranksmith.data.npz import ArrayDataset, open_npz
from ranksmith.data.preprocess import PRESETS
from ranksmith.graph.query import conv_layer
from ranksmith.lowrank.spectra import relative_error, retained_energy
from ranksmith.lowrank.statistics import OutputStatistics
from ranksmith.progress import Silent
from ranksmith.workflow import sweep
from ranksmith.workflow.decompose import load_folded
from ranksmith.workflow.source import ModelSource
from ranksmith.workflow.statistics import gather


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The JSON of one command line."""
    assert run([*map(str, arguments), "--json", "--quiet"]) == 0, capsys.readouterr().err
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.parametrize(
    ("model", "preprocess", "node", "rank", "images"),
    [
        ("resnet20-cifar10", "cifar10", "/layer2/layer2.1/conv2/Conv", 12, 200),
        ("resnet20-cifar10", "cifar10", "/layer3/layer3.0/conv2/Conv", 16, 200),
        ("resnet50-v1", "imagenet", "res4b_branch2b", 128, 8),
    ],
    ids=["ResNet-20, stage 2", "ResNet-20, stage 3", "ResNet-50, stage 4"],
)
def test_output_pca_is_nearer_to_the_original_than_weight_svd_at_the_same_rank(
    shared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    preprocess: str,
    node: str,
    rank: int,
    images: int,
) -> None:
    source = shared / "models" / f"{model}.onnx"
    names = {
        "cifar10": ("cifar10-calibration.npz", "cifar10-test5k.npz"),
        "imagenet": ("imagenet-sample", "imagenet-sample"),
    }
    calibration, data = (shared / "data" / name for name in names[preprocess])
    found = {}
    for kind in ("weight-svd", "output-pca"):
        out = tmp_path / f"{kind}.onnx"
        answer(
            capsys, "decompose", source, "--node", f"{node}={rank}", "--kind", kind, "--data",
            calibration, "--calibration", 12, "--preprocess", preprocess, "--threads", 1, "-o", out,
        )  # fmt: skip
        found[kind] = answer(
            capsys, "compare", source, out, "--data", data, "--images", images,
            "--preprocess", preprocess, "--threads", 1,
        )  # fmt: skip
    svd, pca = found["weight-svd"], found["output-pca"]
    assert pca["outputs"][0]["relative_l2"] < svd["outputs"][0]["relative_l2"]
    assert pca["kl"] < svd["kl"]
    assert pca["agreement"] >= svd["agreement"]


def test_the_spectrum_of_a_real_feature_map_is_the_sweep_of_its_error(shared: Path) -> None:
    source = ModelSource(path=shared / "models" / "resnet20-cifar10.onnx", name="resnet20")
    whole = open_npz(shared / "data" / "cifar10-calibration.npz")
    data = ArrayDataset("some", whole.images[:24])
    node, ranks = "/layer2/layer2.0/conv2/Conv", [2, 8, 16, 24, 32]
    options: Any = {"threads": 1, "progress": Silent(), "limit": None, "threshold": 0.005}
    report = sweep.run(source, data, PRESETS["cifar10"], node=node, ranks=ranks, kind="output-pca", **options)
    folded, _ = load_folded(source)
    needs: Any = {node: ["output"]}
    statistics: OutputStatistics = gather(
        folded, needs, dataset=data, indices=np.arange(24), preprocess=PRESETS["cifar10"], threads=1, progress=Silent()
    ).output[node]
    closed = relative_error(retained_energy(statistics.covariance))
    found = [point.layer_relative_l2 for point in report.points]
    np.testing.assert_allclose(found, closed[np.asarray(ranks) - 1], rtol=1e-4, atol=1e-5)
    assert report.points[-1].output_relative_l2 < 1e-4
    assert conv_layer(folded, node).out_channels == 32


@pytest.mark.parametrize("kind", ["input-side", "spatial-vertical"])
def test_the_fitted_kinds_keep_the_answers_at_a_rank_that_halves_the_layer(shared: Path, kind: str) -> None:
    source = ModelSource(path=shared / "models" / "resnet20-cifar10.onnx", name="resnet20")
    data = ArrayDataset("some", open_npz(shared / "data" / "cifar10-calibration.npz").images[:48])
    node = "/layer2/layer2.1/conv1/Conv"
    options: Any = {"threads": 1, "progress": Silent(), "limit": None, "threshold": 0.005, "node": node}
    # 16 of 32 channels, and 24 of 96 (channel, row) pairs, cost a good half of the dense layer.
    rank = 16 if kind == "input-side" else 24
    point = sweep.run(source, data, PRESETS["cifar10"], kind=kind, ranks=[rank], **options).points[0]
    assert point.macs_ratio < 0.6
    assert point.layer_relative_l2 < 0.35
    assert point.output_relative_l2 < 0.15
