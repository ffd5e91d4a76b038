"""inspect, fold, expose and decompose, from the command line to the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from ranksmith.cli.app import run as ranksmith
from ranksmith.results import PlanEntry, RankPlan, to_json
from tests.models import conv_bn, mlp, node_types, random_feeds, residual_classifier, run, save


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save(residual_classifier(), tmp_path / "net.onnx")


def printed_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_inspect_lists_every_conv_with_its_verdict(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranksmith(["inspect", str(net)]) == 0
    shown = capsys.readouterr().out
    for text in ("opset 17", "x float32 [N, 3, 16, 16]", "kept-stem", "block1/conv2", "32×32×3×3", "candidates for"):
        assert text in shown


def test_inspect_prints_one_document(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranksmith(["inspect", str(net), "--json"]) == 0
    found = printed_json(capsys)
    assert found["schema"] == "ranksmith.inspection/1"
    assert found["bytes"] == net.stat().st_size
    assert [conv["node"] for conv in found["convs"]][:2] == ["stem", "block0/conv1"]


def test_inspect_of_a_model_without_convs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranksmith(["inspect", str(save(mlp(), tmp_path / "mlp.onnx"))]) == 0
    assert "no Conv" in capsys.readouterr().out


def test_inspect_shows_what_is_unknown_as_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = conv_bn()
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    assert ranksmith(["inspect", str(save(proto, tmp_path / "m.onnx"))]) == 0
    assert "? M multiply-adds" in capsys.readouterr().out


def test_fold_writes_a_model_without_batch_normalization(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folded.onnx"
    assert ranksmith(["fold", str(net), "-o", str(out)]) == 0
    shown = capsys.readouterr()
    assert "6 changed, 0 skipped" in shown.out
    assert "outputs are the original's" in shown.err
    assert "BatchNormalization" not in node_types(onnx.load(out))
    feeds = random_feeds(residual_classifier())
    np.testing.assert_allclose(run(out, feeds)["logits"], run(net, feeds)["logits"], atol=1e-4)


def test_fold_reports_what_it_skipped_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = conv_bn()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("conv_out", 1, ["N", 6, "a", "b"]))
    path = save(proto, tmp_path / "m.onnx")
    assert ranksmith(["fold", str(path), "-o", str(tmp_path / "out.onnx"), "--json"]) == 0
    assert printed_json(capsys)["skipped"] == [{"node": "bn", "why": "its input conv_out is an output of the model"}]
    assert ranksmith(["fold", str(path), "-o", str(tmp_path / "again.onnx")]) == 0
    assert "is an output of the model" in capsys.readouterr().out


def test_fold_accepts_the_rounding_of_half_precision(tmp_path: Path) -> None:
    path = save(conv_bn(dtype=np.float16), tmp_path / "half.onnx")
    assert ranksmith(["fold", str(path), "-o", str(tmp_path / "out.onnx")]) == 0


def test_fold_refuses_to_write_a_model_that_computes_something_else(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ranksmith.graph import fold as passes

    fold = passes.fold

    def wrong(model: Any) -> Any:
        report = fold(model)
        value = model.graph.initializers["fc_bias"]
        tensor = numpy_helper.from_array(np.ones(10, np.float32), "fc_bias")
        value.const_value = ir.serde.deserialize_tensor(tensor)
        return report

    monkeypatch.setattr(passes, "fold", wrong)
    out = tmp_path / "folded.onnx"
    assert ranksmith(["fold", str(net), "-o", str(out)]) == 1
    assert "differ from the original's" in capsys.readouterr().err
    assert not out.exists()


def test_fold_of_a_model_that_cannot_be_run_is_written_only_unchecked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = conv_bn()
    proto.graph.node[2].op_type = "Mystery"
    proto.graph.node[2].domain = "custom"
    proto.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    path, out = save(proto, tmp_path / "m.onnx"), tmp_path / "out.onnx"
    assert ranksmith(["fold", str(path), "-o", str(out)]) == 1
    told = capsys.readouterr().err
    assert "cannot compare with the original" in told
    assert "--no-verify" in told
    assert not out.exists()
    assert ranksmith(["fold", str(path), "-o", str(out), "--no-verify"]) == 0
    assert node_types(onnx.load(out)) == ["Conv", "Mystery"]


def test_expose_adds_outputs(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    assert ranksmith(["expose", str(net), "--value", "stem/relu", "--value", "pool", "-o", str(out)]) == 0
    assert "made an output, float32 [N,16,16,16]" in capsys.readouterr().out
    assert [value.name for value in onnx.load(out).graph.output] == ["logits", "stem/relu", "pool"]
    assert ranksmith(["expose", str(net), "--value", "pool", "-o", str(out), "--overwrite", "--json"]) == 0
    assert printed_json(capsys)["changed"][0]["node"] == "pool"


def test_expose_of_an_unknown_value_is_a_usage_error(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ranksmith(["expose", str(net), "--value", "stem/rely", "-o", str(tmp_path / "out.onnx")]) == 2
    assert "hint: nearest: stem/relu" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("verb", [["fold"], ["expose", "--value", "pool"], ["decompose", "--node", "block1/conv2=8"]])
def test_an_output_that_exists_is_left_alone(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    out = tmp_path / "out.onnx"
    out.write_text("mine")
    assert ranksmith([verb[0], str(net), *verb[1:], "-o", str(out)]) == 1
    assert "exists" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_decompose_without_data_is_weight_svd(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    assert ranksmith(["decompose", str(net), "--node", "block1/conv2=8", "-o", str(out)]) == 0
    shown = capsys.readouterr()
    assert "32×32×3×3 became 8×32×3×3 → 32×8×1×1" in shown.out
    assert "6 BatchNormalization folded first" in shown.err
    names = [node.name for node in onnx.load(out).graph.node]
    assert {"block1/conv2/1of2", "block1/conv2/2of2"} <= set(names)
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_decompose_at_full_rank_keeps_the_outputs(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert ranksmith(["decompose", str(net), "--node", "block1/conv2=32", "-o", str(out)]) == 0
    feeds = random_feeds(residual_classifier())
    np.testing.assert_allclose(run(out, feeds)["logits"], run(net, feeds)["logits"], atol=1e-3)


def test_decompose_with_data_is_output_pca(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    (tmp_path / "prepare.toml").write_text("size = [16, 16]\nmean = [127, 127, 127]\nstd = [60, 60, 60]\n")
    out = tmp_path / "out.onnx"
    command = ["decompose", str(net), "--node", "block1/conv2=8", "-o", str(out), "--threads", "1", "--json"]
    command += ["--data", str(tmp_path / "images.npz"), "--preprocess", str(tmp_path / "prepare.toml")]
    assert ranksmith(command) == 0
    assert "block1/conv2" in {change["node"] for change in printed_json(capsys)["changed"]}
    assert "block1/conv2/2of2/bias" in {tensor.name for tensor in onnx.load(out).graph.initializer}


def test_decompose_without_folding_leaves_batch_normalization(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert ranksmith(["decompose", str(net), "--node", "block1/conv2=8", "--no-fold", "-o", str(out)]) == 0
    assert "BatchNormalization" in node_types(onnx.load(out))


def test_decompose_follows_a_plan(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = RankPlan(
        source_sha256="0" * 64,
        layers=[PlanEntry(node=node, kind="weight-svd", rank=4) for node in ("block0/conv1", "block1/conv2")],
    )
    (tmp_path / "plan.json").write_text(to_json(plan))
    out = tmp_path / "out.onnx"
    assert ranksmith(["decompose", str(net), "--plan", str(tmp_path / "plan.json"), "-o", str(out)]) == 0
    shown = capsys.readouterr()
    assert "was made for another model" in shown.err
    assert "2 changed" in shown.out
    assert sum(name.endswith("of2") for name in (node.name for node in onnx.load(out).graph.node)) == 4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "nothing to decompose"),
        (["--node", "block1/conv2"], "does not say NODE=RANK"),
        (["--node", "=4"], "does not say NODE=RANK"),
        (["--node", "block1/conv2=many"], "does not say NODE=RANK"),
        (["--node", "block1/conv9=4"], "no node named 'block1/conv9'"),
        (["--node", "block1/conv2=33"], "33"),
        (["--node", "block1/conv2=0"], "0"),
        (["--node", "block1/conv2=4", "--kind", "magic"], "magic"),
        (["--node", "block1/conv2=4", "--kind", "output-pca"], "output-pca needs calibration images"),
        (["--plan", "absent.json"], "cannot read the plan"),
        (["--plan", "net.onnx"], "is not a rank plan"),
    ],
)
def test_decompose_refuses_what_it_cannot_do(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(net.parent)
    assert ranksmith(["decompose", str(net), *arguments, "-o", "out.onnx"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert [file.name for file in net.parent.iterdir()] == ["net.onnx"]
