"""Our messages are those of the protocol, and what is in them is checked as over REST."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from tritonclient.grpc import model_config_pb2, service_pb2

from ranksmith.serve.frames import Tensor
from ranksmith.serve.messages import Prediction
from ranksmith.serve.oip import rpc
from ranksmith.serve.oip.datatypes import join_elements, split_elements
from ranksmith.serve.oip.proto import open_inference_pb2 as pb
from ranksmith.serve.oip.signature import InvalidRequestError, ModelSignature, TensorSpec


def shown(*descriptors: Any) -> dict[str, Any]:
    """Fields and enum values by message, nested ones too; methods by service."""
    found: dict[str, Any] = {}

    def message(name: str, entry: Any) -> None:
        found[name] = {(field.name, field.number, field.type, field.label, field.type_name) for field in entry.field}
        for nested in entry.nested_type:
            message(f"{name}.{nested.name}", nested)

    for descriptor in descriptors:
        file = FileDescriptorProto()
        descriptor.CopyToProto(file)
        for entry in file.message_type:
            message(entry.name, entry)
        for entry in file.enum_type:
            found[entry.name] = {(value.name, value.number) for value in entry.value}
        for entry in file.service:
            found[entry.name] = {
                (method.name, method.input_type, method.output_type, method.client_streaming, method.server_streaming)
                for method in entry.method
            }
    return found


def test_every_message_field_and_method_is_tritonclient_s() -> None:
    ours, theirs = shown(pb.DESCRIPTOR), shown(service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    assert {name: entries - theirs[name] for name, entries in ours.items() if entries - theirs[name]} == {}


def test_what_the_protocol_has_is_there_whole() -> None:
    ours, theirs = shown(pb.DESCRIPTOR), shown(service_pb2.DESCRIPTOR)
    whole = [
        name for name in theirs if name.startswith(("Server", "ModelReady", "ModelMetadata", "ModelInfer", "Infer"))
    ]
    whole = [name for name in whole if "Statistics" not in name]
    assert len(whole) > 20
    assert {name: ours[name] for name in whole} == {name: theirs[name] for name in whole}


def model(datatype: str = "FP32", shape: tuple[int, ...] = (-1, 2)) -> ModelSignature:
    return ModelSignature("m", (TensorSpec("x", datatype, shape),), (TensorSpec("y", "FP32", (-1, 2)),), 4)


def request(datatype: str = "FP32", shape: tuple[int, ...] = (1, 2), **contents: Any) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="m")
    made.inputs.add(name="x", datatype=datatype, shape=shape)
    if contents:
        made.inputs[0].contents.CopyFrom(pb.InferTensorContents(**contents))
    return made


class TestTensors:
    @pytest.mark.parametrize(
        ("datatype", "field", "values"),
        [
            ("BOOL", "bool_contents", [True, False]),
            ("INT8", "int_contents", [-128, 127]),
            ("INT16", "int_contents", [-(2**15), 7]),
            ("INT32", "int_contents", [-(2**31), 7]),
            ("INT64", "int64_contents", [-(2**63), 7]),
            ("UINT8", "uint_contents", [255, 0]),
            ("UINT16", "uint_contents", [65535, 0]),
            ("UINT32", "uint_contents", [2**32 - 1, 0]),
            ("UINT64", "uint64_contents", [2**64 - 1, 0]),
            ("FP32", "fp32_contents", [0.5, float("inf")]),
            ("FP64", "fp64_contents", [0.1, -1e300]),
        ],
    )
    def test_numbers_are_the_bytes_that_they_stand_for(self, datatype: str, field: str, values: list[Any]) -> None:
        asked = rpc.decode(request(datatype, **{field: values}), model(datatype))
        dtype = {"BOOL": "bool", "FP32": "f4", "FP64": "f8"}.get(datatype, datatype.lower())
        assert bytes(asked.tensors[0].data) == np.array(values, dtype).tobytes()

    def test_bytes_are_given_their_lengths(self) -> None:
        asked = rpc.decode(request("BYTES", bytes_contents=[b"", b"ab"]), model("BYTES"))
        assert bytes(asked.tensors[0].data) == join_elements([b"", b"ab"])

    def test_raw_bytes_stay_what_they_are(self) -> None:
        made = request("FP16")
        made.raw_input_contents.append(b"abcd")
        assert rpc.decode(made, model("FP16")).tensors == (Tensor("x", "FP16", (1, 2), b"abcd"),)

    def test_inputs_come_in_the_model_s_order(self) -> None:
        signature = ModelSignature(
            "m", (TensorSpec("a", "UINT8", (-1,)), TensorSpec("b", "UINT8", (-1,))), model().outputs, 4
        )
        made = pb.ModelInferRequest(raw_input_contents=[b"bb", b"aa"])
        made.inputs.add(name="b", datatype="UINT8", shape=[2])
        made.inputs.add(name="a", datatype="UINT8", shape=[2])
        asked = rpc.decode(made, signature)
        assert [(tensor.name, bytes(tensor.data)) for tensor in asked.tensors] == [("a", b"aa"), ("b", b"bb")]
        assert asked.rows == 2

    @pytest.mark.parametrize(
        ("made", "signature", "message"),
        [
            (
                request(fp32_contents=[1, 2, 3]),
                model(),
                r"'x': fp32_contents has 3 .* \[1, 2\] means 2",
            ),
            (request(fp64_contents=[1, 2]), model(), "'x': fp32_contents has 0 elements"),
            (request(), model(), "'x': has neither contents nor raw_input_contents"),
            (request("FP16", fp32_contents=[1, 2]), model("FP16"), "'x': FP16 has no typed contents"),
            (request("INT8", int_contents=[1, 128]), model("INT8"), "'x': 128 is no INT8"),
            (request("INT64", int64_contents=[1, 2]), model(), "'x' has datatype FP32, not 'INT64'"),
            (request(shape=(2**40, 2), fp32_contents=[1, 2]), model(), "1099511627776 rows; at most 4 are taken"),
            (request(shape=(-1, 2), fp32_contents=[1, 2]), model(), "must be at least 1"),
            (request(shape=(1, 2, 1), fp32_contents=[1, 2]), model(), "has 2 dimensions"),
            (pb.ModelInferRequest(), model(), "'x' is missing"),
            (pb.ModelInferRequest(raw_input_contents=[b"a"]), model(), "1 entries for 0 inputs"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, made: pb.ModelInferRequest, signature: ModelSignature, message: str
    ) -> None:
        with pytest.raises(InvalidRequestError, match=message):
            rpc.decode(made, signature)

    @pytest.mark.parametrize("size", [0, 7, 9])
    def test_raw_bytes_of_a_wrong_length_are_refused(self, size: int) -> None:
        made = request()
        made.raw_input_contents.append(bytes(size))
        with pytest.raises(InvalidRequestError, match=f"'x': has {size} bytes"):
            rpc.decode(made, model())

    def test_both_forms_at_once_are_refused(self) -> None:
        made = request(fp32_contents=[1, 2])
        made.raw_input_contents.append(bytes(8))
        with pytest.raises(InvalidRequestError, match="both contents and raw_input_contents"):
            rpc.decode(made, model())

    def test_an_input_given_twice_or_unknown_is_refused(self) -> None:
        twice = request(fp32_contents=[1, 2])
        twice.inputs.append(twice.inputs[0])
        with pytest.raises(InvalidRequestError, match="'x' is given twice"):
            rpc.decode(twice, model())
        unknown = request(fp32_contents=[1, 2])
        unknown.inputs[0].name = "z"
        with pytest.raises(InvalidRequestError, match="input 'z' is unknown; model 'm' has 'x'"):
            rpc.decode(unknown, model())

    @pytest.mark.parametrize(
        ("parameter", "message"),
        [
            ("classification", "'classification' is not offered"),
            ("shared_memory_region", "shared memory is not offered"),
        ],
    )
    def test_what_is_not_offered_is_refused(self, parameter: str, message: str) -> None:
        made = request(fp32_contents=[1, 2])
        output = made.outputs.add(name="y")
        output.parameters[parameter].int64_param = 3
        with pytest.raises(InvalidRequestError, match=message):
            rpc.decode(made, model())


class TestResponse:
    def test_it_holds_what_was_asked_for_in_that_order(self) -> None:
        outputs = (TensorSpec("y", "FP32", (-1,)), TensorSpec("z", "UINT8", (-1,)))
        signature = ModelSignature("m", model().inputs, outputs, 4)
        made = request(fp32_contents=[1, 2])
        made.id = "seven"
        made.outputs.add(name="z")
        made.outputs.add(name="y")
        tensors = [Tensor("y", "FP32", (1,), bytes(4)), Tensor("z", "UINT8", (2,), memoryview(b"ab"))]
        response = pb.ModelInferResponse()
        rpc.encode(response, "m", "3", rpc.decode(made, signature), tensors)
        assert (response.model_name, response.model_version, response.id) == ("m", "3", "seven")
        assert [(each.name, each.datatype, list(each.shape)) for each in response.outputs] == [
            ("z", "UINT8", [2]),
            ("y", "FP32", [1]),
        ]
        assert list(response.raw_output_contents) == [b"ab", bytes(4)]


class TestImages:
    def test_one_element_of_bytes_is_an_image(self) -> None:
        made = request("BYTES", (1,), bytes_contents=[b"jpeg"])
        signature = rpc.image_signature(made)
        assert signature is not None
        (encoded,) = split_elements(rpc.decode(made, signature).tensors[0].data)
        assert bytes(encoded) == b"jpeg"

    @pytest.mark.parametrize("made", [request(), request("BYTES", (2,)), pb.ModelInferRequest()])
    def test_anything_else_is_tensors(self, made: pb.ModelInferRequest) -> None:
        assert rpc.image_signature(made) is None

    def test_classes_are_three_outputs(self) -> None:
        predictions = [
            Prediction(label="cat", index=3, probability=0.75),
            Prediction(label=None, index=1, probability=0.25),
        ]
        label, index, probability = rpc.class_tensors(predictions)
        assert [bytes(each) for each in split_elements(label.data)] == [b"cat", b"1"]
        assert np.frombuffer(index.data, "<i8").tolist() == [3, 1]
        assert np.frombuffer(probability.data, "<f4").tolist() == [0.75, 0.25]
        assert {each.shape for each in (label, index, probability)} == {(2,)}
