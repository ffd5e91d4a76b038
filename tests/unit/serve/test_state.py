"""What outlives the server."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ranksmith.errors import OutputError
from ranksmith.serve.messages import Receipt
from ranksmith.serve.supervisor.state import Active, State

ACTIVE = {"demo": Active(target="demo.onnx", source="bundle", generation=3)}


def receipt(number: int) -> Receipt:
    return Receipt(
        verb="deploy", model="demo", source="bundle", old_generation=number - 1, new_generation=number,
        created="2031-04-05T06:07:08.000+00:00", checks=["one"], load_s=1.0, total_s=1.5,
    )  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> State:
    found = State(tmp_path / "deep" / "state")
    found.prepare()
    return found


def test_what_was_written_is_read(state: State) -> None:
    assert state.active() == {}
    state.write_active(ACTIVE)
    assert State(state.directory).active() == ACTIVE


def test_nobody_else_can_look_in(state: State) -> None:
    assert state.directory.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_read_counts_as_nothing(state: State) -> None:
    (state.directory / "active.json").write_text('{"demo": 1', encoding="utf-8")
    assert state.active() == {}


def test_receipts_are_numbered(state: State) -> None:
    for number in range(2, 14):
        state.write_receipt(receipt(number))
    files = sorted((state.directory / "receipts").iterdir(), key=lambda path: int(path.stem))
    assert [path.stem for path in files] == [str(number) for number in range(1, 13)]
    told = msgspec.json.decode(files[-1].read_bytes())
    assert (told["schema"], told["new_generation"]) == ("ranksmith.swap/1", 13)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="state directory"):
        State(tmp_path / "file" / "state").prepare()
