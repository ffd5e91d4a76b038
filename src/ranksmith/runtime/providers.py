"""Which execution providers this machine has, and how to get those it lacks."""

from __future__ import annotations

from ranksmith.errors import RanksmithError
from ranksmith.results import ProviderStatus
from ranksmith.runtime import onnxruntime
from ranksmith.runtime.machine import machine
from ranksmith.runtime.session import PROVIDERS, open_session

__all__ = ["statuses"]


def statuses() -> list[ProviderStatus]:
    """The state of every provider. One that claims to be there is tried with a model of one node."""
    return [_status(name) for name in PROVIDERS]


def _status(name: str) -> ProviderStatus:
    try:
        open_session(_identity_model(), provider=name, threads=1)
    except RanksmithError as error:
        return ProviderStatus(name=name, available=False, detail=error.message, hint=error.hint)
    here = machine()
    if name.startswith("openvino"):
        detail = f"OpenVINO {here.libraries.get('openvino', '')}"
        if name == "openvino-bf16" and not {"avx512_bf16", "amx_bf16"} & set(here.flags):
            detail += "; this CPU has no bfloat16 instructions, so expect no gain"
    else:
        library = "onnxruntime-gpu" if "onnxruntime-gpu" in here.libraries else "onnxruntime"
        detail = f"{library} {here.libraries.get(library, '')}, {onnxruntime.EXECUTION_PROVIDERS[name][0]}"
    return ProviderStatus(name=name, available=True, detail=detail)


def _identity_model() -> bytes:
    from onnx import TensorProto, helper

    value = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"}
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [value["x"]], [value["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())
