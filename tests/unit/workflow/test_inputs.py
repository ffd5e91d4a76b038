"""The images of a verb, from what was said and what is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from ranksmith.data.labels import IMAGENET_LABELS, read_labels
from ranksmith.data.preprocess import PRESETS
from ranksmith.errors import DataError, ModelError, UsageError
from ranksmith.graph import io
from ranksmith.progress import Silent
from ranksmith.workflow.inputs import choose_preprocess, image_batch, open_inputs
from ranksmith.workflow.source import ModelSource
from tests.models import GraphBuilder, classifier, mlp, save
from tests.unit.workflow.scene import PREPROCESS, pictures


class Listener(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def source_of(folder: Path, *, classes: int = 10, hw: tuple[int, int] = (8, 8), **known: object) -> ModelSource:
    path = save(classifier(classes=classes, hw=hw), folder / "model.onnx")
    return ModelSource(path=path, name="model", **known)  # type: ignore[arg-type]


def folders(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.fromarray(pictures(1, seed=number)[0]).save(root / name / "a.png")
    return root


def archive(path: Path, count: int, **more: object) -> Path:
    np.savez(path, images=pictures(count), **more)  # type: ignore[arg-type]
    return path


def test_imagenet_synsets_are_matched_to_the_thousand_classes(tmp_path: Path) -> None:
    listener = Listener()
    data = folders(tmp_path / "data", "n01443537", "n15075141", "n02510455")
    inputs = open_inputs(source_of(tmp_path, classes=1000), data=data, progress=listener)
    assert inputs.dataset.labels is not None
    # goldfish, toilet tissue, giant panda: folders in sorted order
    assert inputs.dataset.labels.tolist() == [1, 388, 999]
    assert list(inputs.labels or ()) == read_labels(IMAGENET_LABELS).lines
    assert any("synset" in note for note in listener.notes)


def test_synsets_mean_nothing_to_a_model_of_other_classes(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", "n01443537", "n15075141", "n02510455")
    inputs = open_inputs(source_of(tmp_path), data=data, progress=Silent())
    assert inputs.dataset.labels is not None
    assert inputs.dataset.labels.tolist() == [0, 1, 2]
    assert inputs.labels == ["n01443537", "n02510455", "n15075141"]


def test_other_folders_are_numbered_also_for_a_thousand_classes(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", "n01443537", "my-cat")
    inputs = open_inputs(source_of(tmp_path, classes=1000), data=data, progress=Silent())
    assert inputs.dataset.class_names == ["my-cat", "n01443537"]


def test_labels_that_were_given_win(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", "cat", "dog")
    (tmp_path / "labels.txt").write_text("dog\nbird\ncat\n")
    inputs = open_inputs(
        source_of(tmp_path, labels=["x", "y"]), data=data, labels=tmp_path / "labels.txt", progress=Silent()
    )
    assert inputs.dataset.labels is not None
    assert inputs.dataset.labels.tolist() == [2, 0]
    assert inputs.labels == ["dog", "bird", "cat"]


def test_what_comes_with_the_model_is_used_where_nothing_is_said(tmp_path: Path) -> None:
    source = source_of(
        tmp_path,
        data=archive(tmp_path / "test.npz", 5),
        calibration_data=archive(tmp_path / "calibration.npz", 7),
        labels=["cat", "dog"],
        preprocess=PREPROCESS,
    )
    listener = Listener()
    inputs = open_inputs(source, data=None, progress=listener)
    assert len(inputs.dataset) == 5
    assert inputs.calibration is not None
    assert len(inputs.calibration) == 7
    assert inputs.labels == ["cat", "dog"]
    assert inputs.preprocess == PREPROCESS
    assert listener.warnings == []


def test_own_data_is_not_mixed_with_the_calibration_images_of_the_model(tmp_path: Path) -> None:
    source = source_of(tmp_path, calibration_data=archive(tmp_path / "calibration.npz", 7))
    inputs = open_inputs(source, data=archive(tmp_path / "own.npz", 5), progress=Silent())
    assert len(inputs.dataset) == 5
    assert inputs.calibration is None


def test_calibration_images_of_their_own(tmp_path: Path) -> None:
    inputs = open_inputs(
        source_of(tmp_path),
        data=archive(tmp_path / "own.npz", 5),
        calibration_data=archive(tmp_path / "other.npz", 3),
        progress=Silent(),
    )
    assert inputs.calibration is not None
    assert len(inputs.calibration) == 3


def test_no_images_at_all_is_a_usage_error_that_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_inputs(source_of(tmp_path), data=None, progress=Silent())
    assert "--data" in str(caught.value.hint)


def test_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        open_inputs(source_of(tmp_path), data=tmp_path / "absent", progress=Silent())
    with pytest.raises(DataError, match=r"labels\.txt"):
        open_inputs(
            source_of(tmp_path),
            data=folders(tmp_path / "data", "cat"),
            labels=tmp_path / "labels.txt",
            progress=Silent(),
        )


@pytest.mark.parametrize(("hw", "name"), [((32, 32), "cifar10"), ((224, 224), "imagenet"), ((8, 8), "8x8")])
def test_guessed_preprocessing_is_warned_about(tmp_path: Path, hw: tuple[int, int], name: str) -> None:
    listener = Listener()
    chosen = choose_preprocess(source_of(tmp_path, hw=hw), None, progress=listener)
    assert chosen.size == hw
    assert name in chosen.name
    assert len(listener.warnings) == 1
    assert chosen.name in listener.warnings[0]
    assert "--preprocess" in listener.warnings[0]


def test_preprocessing_that_was_asked_for_wins_over_what_is_known(tmp_path: Path) -> None:
    listener = Listener()
    source = source_of(tmp_path, preprocess=PREPROCESS)
    assert choose_preprocess(source, None, progress=listener) == PREPROCESS
    assert choose_preprocess(source, "imagenet", progress=listener) == PRESETS["imagenet"]
    (tmp_path / "mine.toml").write_text("size = 8\n")
    assert choose_preprocess(source, str(tmp_path / "mine.toml"), progress=listener).size == (8, 8)
    assert listener.warnings == []
    with pytest.raises(UsageError, match="cifar100"):
        choose_preprocess(source, "cifar100", progress=listener)


def test_a_model_that_takes_no_images_is_refused_where_a_guess_would_be_idle(tmp_path: Path) -> None:
    path = save(mlp(), tmp_path / "mlp.onnx")
    with pytest.raises(DataError, match="guess"):
        choose_preprocess(ModelSource(path=path, name="mlp"), None, progress=Silent())


def loaded(tmp_path: Path, batch: int | str) -> tuple[ir.Model, Path]:
    path = save(classifier(batch=batch), tmp_path / "model.onnx")
    return io.load(path), path


def test_images_are_taken_one_by_one_where_the_batch_is_fixed_to_one(tmp_path: Path) -> None:
    assert image_batch(*loaded(tmp_path, "N"), wanted=5) == 5
    assert image_batch(*loaded(tmp_path, 1), wanted=5) == 1


def test_another_fixed_batch_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx.*input x.*fixed batch of 4") as caught:
        image_batch(*loaded(tmp_path, 4))
    assert "symbolic" in str(caught.value.hint)


def test_a_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    path = save(two_inputs(), tmp_path / "two.onnx")
    with pytest.raises(ModelError, match=r"two\.onnx has 2 inputs"):
        image_batch(io.load(path), path)


def two_inputs() -> object:
    build = GraphBuilder()
    a, b = (build.input(name, ["N", 3, 8, 8]) for name in ("a", "b"))
    both = build.node("Add", [build.conv(a, "conv", (3, 4)), build.conv(b, "other", (3, 4))], "both")
    build.output(build.node("GlobalAveragePool", [both], "y"), ["N", 4, 1, 1])
    return build.model()
