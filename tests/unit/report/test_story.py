"""Sentences and derived figures: only what the numbers carry."""

from __future__ import annotations

import msgspec
import pytest

from ranksmith.report.evidence import layer_audit, provider_rows
from ranksmith.report.story import summary
from tests.unit.report import manifests
from tests.unit.report.mixed import mixed

replace = msgspec.structs.replace


def test_int8_is_spoken_of_where_it_has_a_part() -> None:
    manifest = mixed()
    assert "20 of its 53 Convs are low-rank, 46 compute in 8-bit integers." in summary(manifest)
    alone = [replace(layer, kind=None, rank=None) for layer in manifest.layers]
    told = summary(replace(manifest, layers=alone))
    assert "46 of its 53 Convs compute in 8-bit integers." in told
    assert "low-rank" not in told
    assert "integers" not in summary(manifests.faster())


def test_what_is_only_compared_with_is_no_plan() -> None:
    kept = manifests.kept_original()
    peers = [replace(point, family="uniform-svd") for point in kept.frontier]
    assert "there was no plan to judge" in summary(replace(kept, frontier=peers))
    assert "1 plans" not in summary(replace(kept, frontier=kept.frontier[:3]))


def test_the_prediction_is_judged_on_the_layers_that_changed() -> None:
    layer = replace(manifests.faster().layers[2], rank=16, kind="output-pca", precision="fp32")
    layers = [
        replace(layer, predicted_ms=1.0, measured_ms=1.1),
        replace(layer, predicted_ms=2.0, measured_ms=1.6),
        replace(layer, rank=None, kind=None, precision="int8", predicted_ms=1.0, measured_ms=1.3),
        replace(layer, rank=None, kind=None, predicted_ms=1.0, measured_ms=9.0),
        replace(layer, predicted_ms=None),
    ]
    audit = layer_audit(layers)
    assert audit is not None
    assert (audit.layers, audit.median_error, audit.total) == pytest.approx((3, 0.2, 1.0))
    assert layer_audit(layers[3:]) is None


def test_providers_follow_the_one_compressed_for_fastest_first() -> None:
    manifest = mixed()
    rows = provider_rows(replace(manifest, providers=manifest.providers[::-1]))
    assert [row.provider for row in rows] == ["cpu", "openvino", "openvino-bf16"]
    assert [row.target for row in rows] == [True, False, False]
    assert max(row.baseline_percent for row in rows) == 100
    assert [row.provider for row in provider_rows(replace(manifest, latency=[]))] == ["openvino", "openvino-bf16"]
    assert provider_rows(manifests.faster()) == []
