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
from ranksmith.workflow.compress import selection
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
    """A choice that looks right on the images that it is made on, and a held-out image that says otherwise.

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
    options: dict[str, Any] = {"max_drop_pp": 20.0, "holdout": 2, "confidence": 0.5, "points": 12}
    never = answers(flat_spectrum, inputs_of(images)).argmin(1)
    first = Desk(tmp_path / "first", flat_spectrum, Arranged("arranged", images, never))
    first.folder.mkdir()
    assert first.compress(**options).verdict == "faster"
    others = pictures(2000, seed=6)
    original = run(flat_spectrum, {"image": inputs_of(others)})["scores"]
    right = original.argmax(1)
    found = run(first.bundle / "model.onnx", {"image": inputs_of(others)})["scores"].argmax(1)
    # The surer the original is of an image that flipped, the more error it took.
    sure_by = np.diff(np.sort(original, axis=1)[:, -2:], axis=1)[:, 0]
    flipped = int(np.argmax(np.where(found != right, sure_by, -np.inf)))
    held = splits.split(first.data, calibration=CALIBRATION, seed=0).holdout[0]
    images[held], never[held] = others[flipped], right[flipped]
    (tmp_path / "second").mkdir()
    return Unlucky(Desk(tmp_path / "second", flat_spectrum, Arranged("arranged", images, never)), options)


@pytest.fixture
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first choice is the last."""
    monkeypatch.setattr(selection, "_MILDER", ())


def _second_thoughts(desk: Desk) -> list[str]:
    return [note for note in desk.listener.notes if "looking for a milder plan" in note]


class TestGate:
    """A promise that is not kept ends in exit code 3, and nothing is written."""

    def test_a_choice_that_does_not_hold_on_fresh_images_is_made_again(self, unlucky: Unlucky) -> None:
        manifest = unlucky.desk.compress(**unlucky.options)
        notes = _second_thoughts(unlucky.desk)
        assert "top-1 fell by 50.00 pp on 2 held-out images, more than --max-drop 20" in notes[0]
        # All the held-out images judged the next choice as well, and that is told.
        assert (manifest.data.holdout, manifest.accuracy.images) == (2, 2)
        assert manifest.accuracy.choices_judged == 1 + len(notes) > 1
        assert manifest.accuracy.drop_pp <= 20.0

    def test_answers_that_change_are_too_many_though_no_accuracy_is_lost(self, unlucky: Unlucky) -> None:
        """No label is ever right, so whatever changes is no loss."""
        assert isinstance(unlucky.desk.data, ArrayDataset)
        assert unlucky.desk.data.labels is not None
        held = splits.split(unlucky.desk.data, calibration=CALIBRATION, seed=0).holdout[0]
        original = run(unlucky.desk.source.path, {"image": inputs_of(unlucky.desk.data.images[held][None])})["scores"]
        unlucky.desk.data.labels[held] = int(original.argmin())
        unlucky.desk.compress(**unlucky.options | {"min_agreement": 0.0})
        assert not _second_thoughts(unlucky.desk)
        options = {"min_agreement": 0.9, "confidence": 0.0, "overwrite": True}
        manifest = unlucky.desk.compress(**unlucky.options | options)
        note = _second_thoughts(unlucky.desk)[0]
        assert "% of the answers on 2 held-out images are the original's, less than --min-agreement 90" in note
        assert manifest.accuracy.agreement == 1.0

    @pytest.mark.usefixtures("one_look")
    def test_when_no_choice_held_it_is_an_error(self, unlucky: Unlucky) -> None:
        with pytest.raises(GateError, match=r"top-1 fell by .* images, more than --max-drop 20") as caught:
            unlucky.desk.compress(**unlucky.options)
        assert "--max-drop" in str(caught.value.hint)
        assert unlucky.desk.left() == set()

    @pytest.mark.usefixtures("one_look")
    def test_without_labels_it_is_agreement_that_fell(self, unlucky: Unlucky) -> None:
        images = pictures(160, seed=5)
        assert isinstance(unlucky.desk.data, ArrayDataset)
        parts = splits.split(unlucky.desk.data, calibration=CALIBRATION, seed=0)
        # Every image that is chosen on is the same one, on which all agree.
        images[parts.selection] = images[parts.selection[0]]
        images[parts.holdout] = unlucky.desk.data.images[parts.holdout[0]]
        unlucky.desk.data = Arranged("arranged", images)
        with pytest.raises(GateError, match="agreement fell"):
            unlucky.desk.compress(**unlucky.options)

    @pytest.mark.usefixtures("one_look")
    def test_the_command_ends_with_three_and_says_what_the_best_was(
        self, unlucky: Unlucky, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(
            "ranksmith.workflow.compress.run.compress",
            lambda source, inputs, options, progress: unlucky.desk.compress(**unlucky.options),
        )
        np.savez(unlucky.desk.folder / "data", images=pictures(4))
        arguments = ["compress", str(unlucky.desk.source.path), "--data", str(unlucky.desk.folder / "data.npz")]
        assert command([*arguments, "-o", str(unlucky.desk.bundle), "--json"]) == 3
        printed = capsys.readouterr()
        assert printed.out == ""
        error, hint = printed.err.splitlines()[-2:]
        assert error.startswith("error: top-1 fell by ")
        assert hint.startswith("hint: on the images to choose on the best plan lost 0.00 pp")
        assert not unlucky.desk.bundle.exists()
