"""The accuracy that was promised is kept, or nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ranksmith.cli.app import run as command
from ranksmith.data import split as splits
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import GateError
from tests.integration.compress.desk import CALIBRATION, Desk
from tests.models import run
from tests.unit.workflow.scene import (
    Machine,
    Net,
    answers,
    inputs_of,
    network,
    pictures,
    replace_in_compress,
    trained,
)


@dataclass
class Unlucky:
    """A choice that looks right on the images that it is made on, and a first fresh image that says otherwise.

    On the images that are chosen on no model is ever right, so no plan loses anything there. The first held-out
    image is one that the strongest plan, which is chosen then, gets wrong and the original right.
    """

    desk: Desk
    options: dict[str, Any]


class Arranged(ArrayDataset):
    """Images whose labels take no part in the split."""

    def key(self, index: int) -> str:
        return f"{index:064x}"


@pytest.fixture(scope="module")
def flat_spectrum() -> onnx.ModelProto:
    return trained(network(Net(widths=(32, 64), spectrum=0.0)))


@pytest.fixture
def unlucky(tmp_path: Path, flat_spectrum: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> Unlucky:
    replace_in_compress(monkeypatch, "write_report", lambda manifest, folder: None)
    Machine().use(monkeypatch)
    images = pictures(160, seed=5)
    options: dict[str, Any] = {"max_drop_pp": 20.0, "holdout": 2, "confidence": 0.5}
    never = answers(flat_spectrum, inputs_of(images)).argmin(1)
    first = Desk(tmp_path / "first", flat_spectrum, Arranged("arranged", images, never))
    first.folder.mkdir()
    assert first.compress(**options).verdict == "faster"
    others = pictures(300, seed=6)
    right = run(flat_spectrum, {"image": inputs_of(others)})["scores"].argmax(1)
    found = run(first.bundle / "model.onnx", {"image": inputs_of(others)})["scores"].argmax(1)
    flipped = int(np.flatnonzero(right != found)[0])
    held = splits.split(first.data, calibration=CALIBRATION, seed=0).holdout[0]
    images[held], never[held] = others[flipped], right[flipped]
    (tmp_path / "second").mkdir()
    return Unlucky(Desk(tmp_path / "second", flat_spectrum, Arranged("arranged", images, never)), options)


class TestGate:
    """A promise that is not kept ends in exit code 3, and nothing is written."""

    def test_a_choice_that_does_not_hold_on_fresh_images_is_made_again(self, unlucky: Unlucky) -> None:
        manifest = unlucky.desk.compress(**unlucky.options)
        assert any("looking for a milder plan" in note for note in unlucky.desk.listener.notes)
        # The image that said so is now one of those that are chosen on, and the other still takes no part.
        assert (manifest.data.selection, manifest.data.holdout) == (61, 1)
        assert manifest.accuracy.images == 1

    def test_a_choice_that_does_not_hold_on_the_last_ones_either_is_an_error(self, unlucky: Unlucky) -> None:
        with pytest.raises(GateError, match=r"top-1 fell by .* images, more than --max-drop 20") as caught:
            unlucky.desk.compress(**unlucky.options | {"holdout": 1})
        assert "--max-drop" in str(caught.value.hint)
        assert unlucky.desk.left() == set()

    def test_without_labels_it_is_agreement_that_fell(self, unlucky: Unlucky) -> None:
        images = pictures(160, seed=5)
        assert isinstance(unlucky.desk.data, ArrayDataset)
        parts = splits.split(unlucky.desk.data, calibration=CALIBRATION, seed=0)
        # Every image that is chosen on is the same one, on which all agree.
        images[parts.selection] = images[parts.selection[0]]
        images[parts.holdout] = unlucky.desk.data.images[parts.holdout[0]]
        unlucky.desk.data = Arranged("arranged", images)
        with pytest.raises(GateError, match="agreement fell"):
            unlucky.desk.compress(**unlucky.options | {"holdout": 1})

    def test_the_command_ends_with_three_and_says_what_the_best_was(
        self, unlucky: Unlucky, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(
            "ranksmith.workflow.compress.run.compress",
            lambda source, inputs, options, progress: unlucky.desk.compress(**unlucky.options | {"holdout": 1}),
        )
        np.savez(unlucky.desk.folder / "data", images=pictures(4))
        arguments = ["compress", str(unlucky.desk.source.path), "--data", str(unlucky.desk.folder / "data.npz")]
        assert command([*arguments, "-o", str(unlucky.desk.bundle), "--json"]) == 3
        printed = capsys.readouterr()
        assert printed.out == ""
        error, hint = printed.err.splitlines()[-2:]
        assert error.startswith("error: top-1 fell by ")
        assert hint.startswith("hint: the best plan lost 0.00 pp")
        assert not unlucky.desk.bundle.exists()
