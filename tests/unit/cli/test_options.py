from __future__ import annotations

import pytest

from ranksmith.cli.options import parse_batches
from ranksmith.errors import UsageError


@pytest.mark.parametrize(("text", "batches"), [("1", [1]), ("1,8", [1, 8]), ("8, 1,8", [8, 1])])
def test_batch_sizes_are_read_without_repeats(text: str, batches: list[int]) -> None:
    assert parse_batches(text) == batches


@pytest.mark.parametrize("text", ["", "0", "-1", "1,", "1;8", "many", "1.5"])
def test_what_is_no_batch_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a batch size"):
        parse_batches(text)
