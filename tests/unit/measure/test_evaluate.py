"""`evaluate` from files to figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from ranksmith.data.dataset import open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.data.preprocess import PRESETS
from ranksmith.errors import DataError
from ranksmith.measure import evaluate as module
from ranksmith.measure.evaluate import evaluate
from ranksmith.progress import Silent
from ranksmith.results import Preprocess
from ranksmith.runtime.session import Session, open_session
from tests.models import classifier, run

PLAIN = Preprocess(name="plain", size=(8, 8), mean=(128.0,) * 3, std=(64.0,) * 3)


@pytest.fixture
def session() -> Session:
    return open_session(classifier().SerializeToString(), threads=1)


@pytest.fixture(autouse=True)
def _few_timed_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMED_BATCHES", 3)


def _dataset(count: int = 30, *, labelled: bool = True) -> ArrayDataset:
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    inputs = (images.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 64
    right = run(classifier(), {"x": inputs})["logits"].argmax(axis=1)
    # Every third label is wrong.
    labels = np.where(np.arange(count) % 3 == 0, (right + 1) % 10, right)
    return ArrayDataset("pictures", images, labels.astype(np.int64) if labelled else None)


def test_accuracy_latency_and_throughput_are_reported(session: Session) -> None:
    found = evaluate(session, _dataset(), PLAIN, batch=4, name="small")
    assert (found.model, found.data, found.images, found.skipped) == ("small", "pictures", 30, 0)
    assert found.top1 == pytest.approx(20 / 30)
    assert found.top1_ci95 is not None
    assert found.top1_ci95[0] < found.top1 < found.top1_ci95[1]
    assert found.top5 is not None
    assert found.top5_ci95 is not None
    assert found.top5 >= found.top1
    assert 0 < found.latency_ms.model.p50 <= found.latency_ms.end_to_end.p50
    assert found.throughput > 0
    assert (found.batch, found.provider, found.threads, found.preprocess) == (4, "cpu", 1, PLAIN)


def test_without_labels_accuracy_is_none(session: Session) -> None:
    found = evaluate(session, _dataset(labelled=False), PLAIN)
    assert (found.top1, found.top1_ci95, found.top5, found.top5_ci95) == (None, None, None, None)


def test_a_limit_takes_a_seeded_sample(session: Session) -> None:
    found = [evaluate(session, _dataset(), PLAIN, limit=9, seed=seed) for seed in (0, 0)]
    assert found[0].images == 9
    assert found[0].top1 == found[1].top1


def test_one_unreadable_image_is_skipped_counted_and_warned_about(session: Session, tmp_path: Path) -> None:
    for index in range(5):
        Image.new("RGB", (8, 8), (index * 40, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    progress = Silent()
    found = evaluate(session, open_dataset(tmp_path), PLAIN, batch=2, progress=progress)
    assert (found.images, found.skipped) == (4, 1)
    assert len(progress.warnings) == 1
    assert "2.png" in progress.warnings[0]


def test_only_unreadable_images_are_an_error(session: Session, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="not one image"):
        evaluate(session, open_dataset(tmp_path), PLAIN)


def test_labels_that_do_not_match_the_outputs_are_told_before_any_work(session: Session) -> None:
    dataset = ArrayDataset("pictures", np.zeros((1, 8, 8, 3), np.uint8), None, ["only", "two"])
    with pytest.raises(DataError, match="2 labels do not match the number of outputs, 10"):
        evaluate(session, dataset, PLAIN)


def test_timing_stops_when_its_time_is_over(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMED_SECONDS", 0.0)
    assert evaluate(session, _dataset(), PLAIN).latency_ms.model.p50 > 0


def test_resnet50_answers_as_with_pil_by_hand(shared: Path) -> None:
    """The same logits as preprocessing by hand gives, on a few of the real images."""
    folders = sorted((shared / "data" / "imagenet-sample").iterdir())[:4]
    lines = (shared / "data" / "imagenet-labels.txt").read_text().splitlines()
    classes = [line.split()[0] for line in lines]
    inputs, labels = [], []
    for folder in folders:
        picture = Image.open(min(folder.iterdir())).convert("RGB")
        scale = 256 / min(picture.size)
        size = int(picture.width * scale), int(picture.height * scale)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32)
        inputs.append(((pixels - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]).transpose(2, 0, 1))
        labels.append(classes.index(folder.name))
    path = shared / "models" / "resnet50-v1.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    by_hand = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    expected = by_hand.run(None, {"data": np.stack(inputs).astype(np.float32)})[0].argmax(axis=1)

    dataset = open_dataset(shared / "data" / "imagenet-sample", labels=shared / "data" / "imagenet-labels.txt")
    assert dataset.labels is not None
    assert dataset.labels[:4].tolist() == labels
    from ranksmith.data.loader import make_batch

    ours = make_batch(dataset, range(4), PRESETS["imagenet"])
    answers = open_session(path, threads=1).run({"data": ours.images})[0].argmax(axis=1)
    assert answers.tolist() == expected.tolist()
