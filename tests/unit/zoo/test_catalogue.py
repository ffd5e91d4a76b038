from __future__ import annotations

import pytest

from ranksmith.errors import UsageError
from ranksmith.zoo import catalogue


@pytest.mark.parametrize("name", ["resnet50-v1-12.onnx", "resnet50-v1-12", "ResNet50-v1-12"])
def test_an_entry_is_found_with_or_without_suffix_and_in_any_case(name: str) -> None:
    entry = catalogue.find(name)
    assert entry is not None
    assert entry.path == "validated/vision/classification/resnet/model/resnet50-v1-12.onnx"
    assert entry.bytes == 102576593
    assert entry.preprocess == "imagenet"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert catalogue.find("resnet51") is None
    with pytest.raises(UsageError) as failure:
        catalogue.get("resnet50-v1")
    assert failure.value.hint is not None
    assert "resnet50-v1-12" in failure.value.hint


def test_a_name_near_to_nothing_is_answered_with_all_entries() -> None:
    with pytest.raises(UsageError) as failure:
        catalogue.get("?????")
    assert failure.value.hint is not None
    assert all(entry.name.removesuffix(".onnx") in failure.value.hint for entry in catalogue.ZOO)


def test_every_checksum_is_a_different_sha256() -> None:
    assert len({entry.sha256 for entry in catalogue.ZOO}) == len(catalogue.ZOO)
    assert all(len(bytes.fromhex(entry.sha256)) == 32 for entry in catalogue.ZOO)
