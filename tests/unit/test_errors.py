from __future__ import annotations

import pytest

from ranksmith import errors
from ranksmith.errors import GateError, ModelError, NodeNotFoundError, RankError, RanksmithError, UsageError


def test_every_error_is_a_ranksmith_error_with_an_exit_code() -> None:
    codes = {name: getattr(errors, name).exit_code for name in errors.__all__}
    assert all(issubclass(getattr(errors, name), RanksmithError) for name in errors.__all__)
    assert {name for name, code in codes.items() if code == 2} == {"UsageError", "NodeNotFoundError", "RankError"}
    assert {name for name, code in codes.items() if code == 3} == {"GateError"}
    assert set(codes.values()) == {1, 2, 3}


def test_the_message_and_the_hint_are_kept_apart() -> None:
    error = ModelError("a.onnx: truncated", hint="copy it again")
    assert (str(error), error.message, error.hint) == ("a.onnx: truncated", "a.onnx: truncated", "copy it again")
    assert GateError("slow").hint is None


def test_a_missing_node_is_answered_with_the_nearest_names() -> None:
    error = NodeNotFoundError("conv_21", ["relu_1", "conv_2", "conv_22", "add"])
    assert isinstance(error, UsageError)
    assert "'conv_21'" in error.message
    assert error.hint is not None
    assert error.hint.startswith("nearest: conv_2")
    assert "add" not in error.hint


def test_a_name_near_to_nothing_is_answered_with_the_first_ones() -> None:
    assert NodeNotFoundError("zzz", ["a", "b", "c", "d"], what="value").hint == "nearest: a, b, c"


def test_an_empty_graph_is_said_to_be_empty() -> None:
    error = NodeNotFoundError("x", [], what="value")
    assert error.message == "no value named 'x' in the model"
    assert error.hint == "the model has no value to choose from"


def test_a_rank_error_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        raise RankError("rank 0 is below 1")
