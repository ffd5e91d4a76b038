from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ranksmith.errors import ModelError, NodeNotFoundError, UsageError
from ranksmith.graph import io
from ranksmith.graph.expose import expose
from ranksmith.graph.fold import fold
from ranksmith.graph.verify import verify
from tests.models import GraphBuilder, random_feeds, residual_classifier, run


def loaded(proto: onnx.ModelProto) -> ir.Model:
    return ir.serde.deserialize_model(proto)


def test_values_become_outputs_with_type_and_shape_beside_those_there_are() -> None:
    proto = residual_classifier()
    model = loaded(proto)
    report = expose(model, ["stem/relu", "block1/add"])
    verify(model)
    assert [value.name for value in model.graph.outputs] == ["logits", "stem/relu", "block1/add"]
    assert [change.what for change in report.changed] == [
        "made an output, float32 [N,16,16,16]",
        "made an output, float32 [N,32,8,8]",
    ]
    feeds = random_feeds(proto)
    found = run(io.to_bytes(model), feeds)
    np.testing.assert_array_equal(found["logits"], run(proto, feeds)["logits"])
    assert found["stem/relu"].shape == (2, 16, 16, 16)


def test_a_folded_model_still_has_the_batch_normalization_s_value() -> None:
    proto = residual_classifier()
    plain, folded = loaded(proto), loaded(proto)
    fold(folded)
    for model in (plain, folded):
        expose(model, ["block0/conv1/bn_out"])
    feeds = random_feeds(proto)
    values = [run(io.to_bytes(model), feeds)["block0/conv1/bn_out"] for model in (plain, folded)]
    np.testing.assert_allclose(values[1], values[0], atol=1e-4)


def test_what_needs_no_exposing_is_skipped_with_the_reason() -> None:
    model = loaded(residual_classifier())
    report = expose(model, ["logits", "x", "fc_weight", "stem/relu", "stem/relu"])
    assert [value.name for value in model.graph.outputs] == ["logits", "stem/relu"]
    assert [skip.node for skip in report.skipped] == ["logits", "x", "fc_weight"]
    assert report.skipped[0].why == "it is an output already"


def test_an_unknown_value_is_answered_with_the_nearest() -> None:
    with pytest.raises(NodeNotFoundError) as caught:
        expose(loaded(residual_classifier()), ["stem/rely"])
    assert caught.value.message == "no value named 'stem/rely' in the model"
    assert "stem/relu" in (caught.value.hint or "")


def test_a_node_s_name_is_answered_with_its_values() -> None:
    with pytest.raises(UsageError) as caught:
        expose(loaded(residual_classifier()), ["stem"])
    assert caught.value.hint == "the values it makes: stem_out"


def test_a_value_of_unknown_type_cannot_be_an_output() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4])
    y = build.node("Mystery", [x], "y", domain="custom")
    build.output(build.node("Mystery", [y], "z", domain="custom"), ["N", 4])
    proto = build.model()
    proto.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    with pytest.raises(ModelError, match="type of 'y' cannot be inferred"):
        expose(loaded(proto), ["y"])


def test_a_value_of_unknown_shape_is_exposed_and_said_to_be() -> None:
    build = GraphBuilder()
    x = build.input("x", ["N", 4])
    shape = build.input("shape", ["rank"])
    build.inputs[-1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    reshaped = build.node("Reshape", [x, shape], "reshaped")
    build.output(build.node("ReduceSum", [reshaped], "y", keepdims=0), [])
    report = expose(loaded(build.model()), ["reshaped"])
    assert report.changed[0].what == "made an output, float32 of unknown shape"
