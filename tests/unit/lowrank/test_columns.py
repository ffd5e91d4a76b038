from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx.reference import ReferenceEvaluator

from ranksmith.convolution import ConvLayer
from ranksmith.lowrank import columns as module
from ranksmith.lowrank.columns import columns, convolve, stream_columns
from tests.unit.lowrank.cases import Case, activations, cases, make_layer


def _onnx_conv(x: np.ndarray, layer: ConvLayer) -> np.ndarray:
    names = ["x", "w"] if layer.bias is None else ["x", "w", "b"]
    node = onnx.helper.make_node(
        "Conv",
        names,
        ["y"],
        strides=layer.strides,
        pads=layer.pads,
        dilations=layer.dilations,
        group=layer.group,
        kernel_shape=layer.kernel,
    )
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in (*names, "y")]
    graph = onnx.helper.make_graph([node], "conv", infos[:-1], infos[-1:])
    feeds = dict(zip(names, (x, layer.weight, layer.bias), strict=False))
    return ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, feeds)[0]


@given(cases())
@settings(deadline=None, max_examples=40)
def test_convolves_as_onnx_does(case: Case) -> None:
    np.testing.assert_allclose(convolve(case.other, case.layer), _onnx_conv(case.other, case.layer), atol=1e-4)


@pytest.mark.parametrize("budget", [1, 2000, 20_000, 1 << 26])
def test_blocks_hold_all_columns_whatever_their_size(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng, 4, 6, (3, 2), group=2, strides=(2, 1), pads=(1, 0, 2, 1), dilations=(1, 2))
    x = activations(rng, 3, 6, (9, 8))
    monkeypatch.setattr(module, "_BLOCK_BYTES", budget)
    blocks = list(stream_columns(x, layer))
    assert max(block.nbytes for block in blocks) <= max(budget, 6 * 6 * 7 * 4)  # at least one row of outputs
    found, expected = np.concatenate(blocks, axis=2), columns(x, layer)
    order = [np.lexsort(part.reshape(-1, part.shape[2])) for part in (found, expected)]
    np.testing.assert_array_equal(found[:, :, order[0]], expected[:, :, order[1]])


def test_a_step_takes_evenly_spaced_positions_and_rotates_with_the_image() -> None:
    layer = ConvLayer(np.ones((1, 1, 1, 1), np.float32))
    x = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    taken = np.concatenate(list(stream_columns(x, layer, step=4)), axis=2).ravel()
    np.testing.assert_array_equal(taken, [0, 4, 8, 12, 17, 21, 25, 29])
    later = np.concatenate(list(stream_columns(x[1:], layer, step=4, start=1)), axis=2).ravel()
    np.testing.assert_array_equal(later, taken[4:])


@given(cases())
@settings(deadline=None, max_examples=30)
def test_a_step_takes_columns_as_they_are(case: Case) -> None:
    height, width = case.layer.output_size(*case.x.shape[2:])
    whole = columns(case.x, case.layer)
    order = whole.reshape(*whole.shape[:2], len(case.x), height * width)
    expected = np.concatenate([order[:, :, image, (2 + image) % 3 :: 3] for image in range(len(case.x))], axis=2)
    found = list(stream_columns(case.x, case.layer, step=3, start=2))
    np.testing.assert_array_equal(np.concatenate([*found, expected[:, :, :0]], axis=2), expected)


def test_an_image_smaller_than_the_kernel_has_no_columns() -> None:
    layer = ConvLayer(np.ones((1, 1, 3, 3), np.float32))
    assert list(stream_columns(np.ones((1, 1, 2, 2), np.float32), layer)) == []
