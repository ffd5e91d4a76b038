"""Running again, overwriting, and being interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from ranksmith.bundle.verify import verify_files
from ranksmith.data.dataset import open_dataset
from ranksmith.data.npz import ArrayDataset
from ranksmith.errors import OutputError
from ranksmith.results import Manifest
from tests.integration.compress.desk import Counted, Desk, Listener
from tests.unit.workflow.scene import (
    CLASSES,
    Machine,
    replace_in_compress,
)


class TestRepeating:
    """The same seed, data and plan give the same file; what was done once is not done again."""

    @pytest.fixture(autouse=True)
    def _steady(self, monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
        Machine().use(monkeypatch)

    def test_two_runs_give_the_same_model_with_the_cache_and_without(
        self, desk: Desk, small_data: ArrayDataset
    ) -> None:
        first, second, fresh = (desk.folder / name for name in ("first", "second", "fresh"))
        desk.data = counted = Counted("pictures", small_data.images, small_data.labels)
        desk.compress(output=first)
        assert desk.listener.gathered
        assert len(set(counted.seen)) == 160
        counted.seen.clear()
        desk.listener = Listener()
        desk.compress(output=second)
        assert not desk.listener.gathered
        # Only to certify the folding and for the golden outputs.
        assert len(set(counted.seen)) <= 32
        shutil.rmtree(desk.folder / "cache")
        desk.compress(output=fresh)
        models = [(folder / "model.onnx").read_bytes() for folder in (first, second, fresh)]
        assert models[0] == models[1] == models[2]
        goldens = [(folder / "golden.npz").read_bytes() for folder in (first, second, fresh)]
        assert goldens[0] == goldens[1] == goldens[2]

    def test_another_seed_is_another_split(self, desk: Desk) -> None:
        hashes = {desk.compress(seed=seed, overwrite=True).data.calibration_sha256 for seed in (0, 1)}
        assert len(hashes) == 2

    def test_the_names_and_order_of_files_do_not_matter(self, desk: Desk, small_data: ArrayDataset) -> None:
        assert small_data.labels is not None
        digests = []
        for turn in range(2):
            folder = desk.folder / "data"
            for number in range(60):
                place = folder / f"{small_data.labels[number]:02d}" / f"{(number * 37 + turn * 11) % 61}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(small_data.images[number]).save(place)
            for number in range(CLASSES):
                (folder / f"{number:02d}").mkdir(exist_ok=True)
            desk.data = open_dataset(folder)
            desk.labels = None
            manifest = desk.compress(output=desk.folder / f"out{turn}", calibration=20)
            digests.append((manifest.data.calibration_sha256, manifest.model.sha256))
            shutil.rmtree(folder)
            shutil.rmtree(desk.folder / "cache")
        assert digests[0] == digests[1]

    def test_a_damaged_cache_is_made_again(self, desk: Desk) -> None:
        first = desk.compress()
        for path in (desk.folder / "cache").iterdir():
            path.write_bytes(path.read_bytes()[:-10])
        desk.listener = Listener()
        second = desk.compress(overwrite=True)
        assert desk.listener.gathered
        assert second.model == first.model

    def test_a_new_thread_count_needs_no_new_statistics(self, desk: Desk) -> None:
        desk.compress()
        desk.listener = Listener()
        manifest = desk.compress(threads=2, overwrite=True)
        assert not desk.listener.gathered
        assert manifest.threads == 2


class TestOutput:
    """Where the bundle goes."""

    def test_an_existing_output_is_refused_before_any_work_and_left_alone(self, desk: Desk) -> None:
        desk.bundle.mkdir()
        (desk.bundle / "dear").write_text("to someone")
        with pytest.raises(OutputError, match="bundle exists"):
            desk.compress()
        assert desk.listener.stages == []
        assert [path.name for path in desk.bundle.iterdir()] == ["dear"]

    def test_overwrite_replaces_it_wholly(self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
        Machine().use(monkeypatch)
        desk.bundle.mkdir()
        (desk.bundle / "old").write_text("old")
        desk.compress(overwrite=True)
        assert not (desk.bundle / "old").exists()
        verify_files(desk.bundle)
        assert desk.left() == {"bundle"}

    def test_a_file_is_not_replaced_by_a_bundle(self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None) -> None:
        Machine().use(monkeypatch)
        desk.bundle.write_text("a file")
        with pytest.raises(OutputError):
            desk.compress(overwrite=True)
        assert desk.bundle.read_text() == "a file"


class TestInterruption:
    """Ctrl-C at any moment leaves nothing half-written, and the next run goes on from there."""

    @pytest.mark.parametrize("halfway", [False, True], ids=["at the start", "halfway"])
    def test_at_every_sort_of_stage_in_turn(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, bare: None, halfway: bool
    ) -> None:
        Machine().use(monkeypatch)
        desk.compress(output=desk.folder / "whole")
        expected = (desk.folder / "whole" / "model.onnx").read_bytes()
        moments = desk.listener.moments
        assert len(moments) >= 8
        interrupted = 0
        for number in moments:
            shutil.rmtree(desk.folder / "cache")
            desk.listener = Listener(interrupt_at=number, halfway=halfway)
            try:
                desk.compress()
            except KeyboardInterrupt:
                interrupted += 1
                assert desk.left() == {"whole"}
                assert not [path for path in (desk.folder / "cache").glob("*") if path.suffix == ".part"]
            else:
                # A stage that is one step cannot be interrupted halfway.
                assert halfway
                shutil.rmtree(desk.bundle)
                continue
            before, desk.listener = desk.listener.stages, Listener()
            desk.compress()
            assert (desk.bundle / "model.onnx").read_bytes() == expected
            shutil.rmtree(desk.bundle)
            # What was finished before the interruption is not done again.
            finished = any(title.startswith("Spectra") for title in before[:-1])
            assert desk.listener.gathered == (not finished)
        assert interrupted >= 4

    def test_while_the_bundle_is_written(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        Machine().use(monkeypatch)
        desk.bundle.mkdir()
        (desk.bundle / "old").write_text("old")

        def interrupted(manifest: Manifest, folder: Path) -> Path:
            (folder / "report.html").write_text("half")
            raise KeyboardInterrupt

        with monkeypatch.context() as inner:
            replace_in_compress(inner, "write_report", interrupted)
            with pytest.raises(KeyboardInterrupt):
                desk.compress(overwrite=True)
        assert desk.left() == {"bundle"}
        assert [path.name for path in desk.bundle.iterdir()] == ["old"]
