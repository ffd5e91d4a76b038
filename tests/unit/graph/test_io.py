from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ranksmith.errors import ExternalDataError, ModelError, OutputError
from ranksmith.graph import io
from ranksmith.graph.fold import fold
from ranksmith.graph.query import cost
from ranksmith.graph.verify import verify
from tests.models import GraphBuilder, conv_bn, random_feeds, residual_classifier, run, save


def external(folder: Path, *, location: str = "weights.bin", write: bool = True) -> Path:
    """A model whose Conv weight lies in `location`, which is written beside it."""
    proto = conv_bn()
    weight = proto.graph.initializer[0]
    content = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(content))}.items():
        weight.external_data.add(key=key, value=value)
    if write:
        (folder / location).write_bytes(content)
    return save(proto, folder / "model.onnx")


def change_entry(path: Path, key: str, value: str) -> None:
    proto = onnx.load(path, load_external_data=False)
    next(entry for entry in proto.graph.initializer[0].external_data if entry.key == key).value = value
    save(proto, path)


def test_a_saved_model_loads_and_computes_the_same(tmp_path: Path) -> None:
    original = residual_classifier()
    io.save(io.load(save(original, tmp_path / "a.onnx")), tmp_path / "b.onnx")
    feeds = random_feeds(original)
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", feeds)["logits"], run(original, feeds)["logits"])
    verify(tmp_path / "b.onnx")


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    path = save(residual_classifier(), tmp_path / "a.onnx")
    contents = set()
    for _ in range(3):
        model = io.load(path)
        fold(model)
        contents.add(io.to_bytes(model))
    assert len(contents) == 1


def test_serialized_models_come_back() -> None:
    original = residual_classifier()
    model = io.from_bytes(original.SerializeToString())
    content = io.to_bytes(model)
    feeds = random_feeds(original)
    np.testing.assert_array_equal(run(content, feeds)["logits"], run(original, feeds)["logits"])
    assert io.to_bytes(io.from_bytes(content)) == content
    assert [node.name for node in model.graph] == [node.name for node in original.graph.node]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not an ONNX model"),
        (b"GIF89a and so on", "is not an ONNX model"),
        (b"\x08", "is truncated"),
        (b"\x3a\x05\x0a\xffab" + b"\x0a", "is not an ONNX model"),
        (bytes(range(256)), "is not an ONNX model"),
    ],
)
def test_what_is_not_onnx_is_refused_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        io.load(path)
    assert told in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_called_truncated(tmp_path: Path, kept: float) -> None:
    content = residual_classifier().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ModelError, match="is truncated"):
        io.load(path)


def test_a_model_cut_between_two_fields_says_that_its_opset_is_missing(tmp_path: Path) -> None:
    proto = conv_bn()
    proto.ClearField("opset_import")
    with pytest.raises(ModelError, match="says no opset"):
        io.load(save(proto, tmp_path / "model.onnx"))


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        io.load(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is a directory"):
        io.load(tmp_path)


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    path = save(conv_bn(), tmp_path / "model.onnx")
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ModelError, match="Permission denied"):
        io.load(path)


def test_a_file_over_two_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    os.truncate(path, 3 * 2**30)
    with pytest.raises(ModelError, match="over 2 GB"):
        io.load(path)


def test_graphs_with_nothing_in_them_are_refused(tmp_path: Path) -> None:
    empty = conv_bn()
    empty.graph.ClearField("node")
    with pytest.raises(ModelError, match="no nodes"):
        io.load(save(empty, tmp_path / "empty.onnx"))
    sparse = conv_bn()
    sparse.graph.sparse_initializer.add().values.name = "sparse"
    with pytest.raises(ModelError, match="sparse initializers"):
        io.load(save(sparse, tmp_path / "sparse.onnx"))


def damaged_tensor(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]


def damaged_type(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].data_type = 99


def damaged_edge(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damaged_tensor, "its shape needs"),
        (damaged_type, "damaged"),
        (damaged_edge, "'nowhere', which nothing produces"),
    ],
)
def test_inner_damage_is_told_in_one_line(tmp_path: Path, damage: Callable[[onnx.ModelProto], None], told: str) -> None:
    proto = conv_bn()
    damage(proto)
    with pytest.raises(ModelError) as caught:
        io.load(save(proto, tmp_path / "model.onnx"))
    assert told in caught.value.message
    assert "\n" not in caught.value.message


def test_an_opset_older_than_7_is_upgraded_to_it(tmp_path: Path) -> None:
    proto = conv_bn(opset=7)
    proto.opset_import[0].version = 6
    model = io.load(save(proto, tmp_path / "model.onnx"))
    assert model.opset_imports[""] == 7
    fold(model)
    feeds = random_feeds(conv_bn(opset=7))
    np.testing.assert_allclose(run(io.to_bytes(model), feeds)["y"], run(conv_bn(opset=7), feeds)["y"], atol=1e-5)


def test_an_opset_that_cannot_be_upgraded_is_refused(tmp_path: Path) -> None:
    proto = conv_bn(opset=7)
    proto.opset_import[0].version = 6
    proto.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="opset 6 and cannot be upgraded"):
        io.load(save(proto, tmp_path / "model.onnx"))


def test_external_data_is_read_and_saved_into_the_model(tmp_path: Path) -> None:
    path = external(tmp_path)
    io.save(io.load(path), tmp_path / "out" / "model.onnx")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.onnx"]
    feeds = random_feeds(conv_bn())
    np.testing.assert_array_equal(run(tmp_path / "out" / "model.onnx", feeds)["y"], run(conv_bn(), feeds)["y"])


@pytest.mark.parametrize("location", ["/etc/hostname", "../weights.bin", "a/../../weights.bin", "C:\\weights.bin", ""])
def test_external_data_outside_the_model_s_directory_is_never_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    with pytest.raises(ExternalDataError, match="outside the model's directory"):
        io.load(external(folder, location=location, write=False))


def test_links_out_of_the_model_s_directory_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ExternalDataError, match="outside the model's directory"):
        io.load(path)
    (folder / "weights.bin").unlink()
    os.link(tmp_path / "weights.bin", folder / "weights.bin")
    with pytest.raises(ExternalDataError, match="hard links"):
        io.load(path)


def test_missing_and_short_external_data_are_told_apart(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-1])
    with pytest.raises(ExternalDataError, match="too short"):
        io.load(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ExternalDataError, match=r"'weights\.bin' is missing"):
        io.load(path)


@pytest.mark.parametrize(("key", "value"), [("length", "4"), ("offset", "-8"), ("offset", "8")])
def test_external_lengths_and_offsets_that_do_not_fit_are_refused(tmp_path: Path, key: str, value: str) -> None:
    path = external(tmp_path)
    change_entry(path, key, value)
    with pytest.raises(ModelError) as caught:
        io.load(path)
    assert "lambda" not in caught.value.message


def test_external_data_in_a_constant_node_is_checked_and_kept(tmp_path: Path) -> None:
    proto = conv_bn()
    weight = proto.graph.initializer[0]
    constant = helper.make_node("Constant", [], ["conv_weight"], value=weight)
    proto.graph.node.insert(0, constant)
    tensor = proto.graph.node[0].attribute[0].t
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    del proto.graph.initializer[0]
    model = io.load(save(proto, tmp_path / "model.onnx"))
    feeds = random_feeds(conv_bn())
    expected = run(conv_bn(), feeds)["y"]
    np.testing.assert_array_equal(run(io.to_bytes(model), feeds)["y"], expected)
    io.save(model, tmp_path / "split.onnx", external_threshold_bytes=0)
    np.testing.assert_array_equal(run(tmp_path / "split.onnx", feeds)["y"], expected)


def test_external_data_in_a_function_is_refused(tmp_path: Path) -> None:
    proto = conv_bn()
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    function = helper.make_function(
        "local", "F", [], ["t"], [helper.make_node("Constant", [], ["t"], value=tensor)], [helper.make_opsetid("", 17)]
    )
    proto.functions.append(function)
    with pytest.raises(ExternalDataError, match="function F"):
        io.load(save(proto, tmp_path / "model.onnx"))


def test_weights_over_two_gigabytes_are_never_materialized_on_the_way_in(tmp_path: Path) -> None:
    rows, columns = 2**15, 2**14 + 8
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, columns])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    (tmp_path / "w.bin").touch()
    os.truncate(tmp_path / "w.bin", rows * columns * 4)
    build = GraphBuilder()
    x = build.input("x", ["N", rows])
    build.initializers.append(weight)
    build.output(build.node("MatMul", [x, "w"], "y"), ["N", columns])
    model = io.load(save(build.model(), tmp_path / "model.onnx"))
    fold(model)
    assert cost(model) == (rows * columns, rows * columns)
    with pytest.raises(ModelError, match="over 2 GB"):
        io.to_bytes(model)


def test_above_the_threshold_weights_go_beside_the_model(tmp_path: Path) -> None:
    original = residual_classifier()
    path = tmp_path / "model.onnx"
    model = io.load(save(original, tmp_path / "source.onnx"))
    io.save(model, path, external_threshold_bytes=1000)
    assert {file.name for file in tmp_path.iterdir()} == {"source.onnx", "model.onnx", "model.onnx.data"}
    assert path.stat().st_size < 10_000 < (tmp_path / "model.onnx.data").stat().st_size
    feeds = random_feeds(original)
    np.testing.assert_array_equal(run(path, feeds)["logits"], run(original, feeds)["logits"])
    verify(path)
    assert io.to_bytes(io.load(path)) == io.to_bytes(model)


def test_a_model_can_be_saved_over_its_own_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    original = residual_classifier()
    io.save(io.load(save(original, tmp_path / "source.onnx")), path, external_threshold_bytes=0)
    model = io.load(path)
    fold(model)
    with pytest.raises(OutputError, match="exists"):
        io.save(model, path, external_threshold_bytes=0)
    io.save(model, path, external_threshold_bytes=0, overwrite=True)
    feeds = random_feeds(original)
    expected = run(original, feeds)["logits"]
    np.testing.assert_allclose(run(path, feeds)["logits"], expected, atol=1e-4)
    # The model in memory still reads its own weights, not what now stands at their old places.
    np.testing.assert_allclose(run(io.to_bytes(model), feeds)["logits"], expected, atol=1e-4)
    assert {file.name for file in tmp_path.iterdir()} == {"source.onnx", "model.onnx", "model.onnx.data"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_save_that_fails_leaves_the_old_pair_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    path, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    model = io.load(save(residual_classifier(), tmp_path / "source.onnx"))
    if overwrite:
        io.save(model, path, external_threshold_bytes=0)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    replace = os.replace

    def broken(source: Any, target: Any) -> None:
        if Path(target) == path:
            assert data.exists()
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", broken)
    fold(model)
    with pytest.raises(KeyboardInterrupt):
        io.save(model, path, external_threshold_bytes=0, overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_existing_output_is_refused_before_anything_is_serialized(tmp_path: Path) -> None:
    path = save(conv_bn(), tmp_path / "model.onnx")
    with pytest.raises(OutputError, match="exists"):
        io.save(io.load(path), path)


def test_a_model_that_cannot_be_serialized_is_one_line(tmp_path: Path) -> None:
    model = io.load(save(conv_bn(), tmp_path / "model.onnx"))
    value = next(iter(model.graph.initializers.values()))

    def broken() -> Any:
        raise ValueError("no bytes here\nnor here")

    value.const_value = ir.LazyTensor(broken, dtype=ir.DataType.FLOAT, shape=ir.Shape([1]), name=value.name)
    with pytest.raises(ModelError) as caught:
        io.to_bytes(model)
    assert caught.value.message == "the model cannot be serialized: no bytes here"


def test_the_checksum_covers_the_external_data(tmp_path: Path) -> None:
    path = save(conv_bn(), tmp_path / "whole.onnx")
    assert io.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    split = external(tmp_path)
    before = io.sha256(split)
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(content)
    assert io.sha256(split) != before


def test_the_checker_s_complaint_is_one_line() -> None:
    model = ir.serde.deserialize_model(conv_bn())
    next(iter(model.graph)).op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="the model is not a valid ONNX model: No Op registered for NoSuchOperator"):
        verify(model)


def test_small_and_string_tensors_stay_in_the_model(tmp_path: Path) -> None:
    proto = conv_bn()
    proto.graph.initializer.append(numpy_helper.from_array(np.array(["a" * 2000], dtype=object), "words"))
    io.save(io.load(save(proto, tmp_path / "a.onnx")), tmp_path / "b.onnx", external_threshold_bytes=0)
    assert (tmp_path / "b.onnx.data").stat().st_size == 0
    assert io.load(tmp_path / "b.onnx").graph.initializers["words"].const_value is not None


def edit_attribute(proto: onnx.ModelProto, name: str, value: Any) -> None:
    attributes = proto.graph.node[0].attribute
    for attribute in [attribute for attribute in attributes if attribute.name == name]:
        attributes.remove(attribute)
    attributes.append(helper.make_attribute(name, value))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("group", 0, "has 0 groups"),
        ("group", 4, "in 4 groups"),
        ("group", 1.0, "'group' that is not of type INT"),
        ("strides", [2], "has strides"),
        ("strides", [0, 1], "has strides"),
        ("pads", [1, 1], "has pads"),
        ("kernel_shape", "3x3", "'kernel_shape' that is not of type INTS"),
    ],
)
def test_a_conv_that_contradicts_itself_is_named(tmp_path: Path, name: str, value: Any, told: str) -> None:
    proto = conv_bn()
    edit_attribute(proto, name, value)
    with pytest.raises(ModelError, match="Conv 'conv'") as caught:
        io.load(save(proto, tmp_path / "model.onnx"))
    assert told in caught.value.message


def no_tensor_type(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].data_type = TensorProto.UNDEFINED


def too_few_elements(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].float_data.extend([1.0, 2.0])


def missing_input(proto: onnx.ModelProto) -> None:
    del proto.graph.node[1].input[3:]


def made_twice(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].output[0] = "conv_out"


def output_of_nothing(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = "nowhere"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (no_tensor_type, "'conv_weight' has no type"),
        (too_few_elements, "'conv_weight' has 2 elements, its shape needs 216"),
        (missing_input, "BatchNormalization 'bn' has 3 inputs"),
        (made_twice, "'conv_out' is redeclared"),
        (output_of_nothing, "nothing produces the output 'nowhere'"),
    ],
)
def test_a_damaged_graph_is_told_before_anything_relies_on_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[onnx.ModelProto], None], told: str
) -> None:
    proto = conv_bn()
    damage(proto)
    with pytest.raises(ModelError) as caught:
        io.load(save(proto, tmp_path / "model.onnx"))
    assert told in caught.value.message
    assert capfd.readouterr().err == ""


@settings(deadline=None, max_examples=60, derandomize=True)
@given(data=st.data())
def test_no_damage_to_the_bytes_is_a_bug_of_ours(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(residual_classifier(widths=(4,), hw=(6, 6)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "model.onnx"
    path.write_bytes(content)
    with contextlib.suppress(ModelError):
        model = io.load(path)
        fold(model)
        cost(model)
        io.to_bytes(model)
