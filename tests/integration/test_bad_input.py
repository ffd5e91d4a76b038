"""Bad input: one clear line, the right exit code, nothing left behind.

Most of it runs inside this process, through the same entry as the `ranksmith` command; a few run the real one.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from ranksmith.cli.app import run
from tests.models import residual_classifier, save

HW = (16, 16)
Refuse = Callable[..., str]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a good model, good images and preprocessing that fits them."""
    desk = tmp_path / "desk"
    desk.mkdir()
    save(residual_classifier(hw=HW), desk / "good.onnx")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, *HW, 3), dtype=np.uint8)
    np.savez(desk / "good.npz", images=images, labels=rng.integers(0, 10, 24))
    (desk / "good.toml").write_text("size = 16\n")
    monkeypatch.chdir(desk)
    return desk


def everything(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


@pytest.fixture
def refuse(desk: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command line that must fail in one clear line; returns that line and its hint."""

    def refuse(*arguments: str, code: int = 1) -> str:
        before = everything(desk)
        assert run(arguments) == code, capsys.readouterr().err
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "Traceback" not in printed.err
        lines = printed.err.splitlines()
        assert sum(line.startswith("error: ") for line in lines) == 1
        told = [line for line in lines if line.startswith(("error: ", "hint: "))]
        assert lines[-len(told) :] == told
        assert everything(desk) == before
        return "\n".join(told)

    return refuse


READERS = [
    ["inspect", "bad.onnx"],
    ["fold", "bad.onnx", "-o", "out.onnx"],
    ["bench", "bad.onnx"],
    ["evaluate", "bad.onnx", "--data", "good.npz", "--preprocess", "good.toml"],
    ["compress", "bad.onnx", "--data", "good.npz", "--preprocess", "good.toml", "-o", "out"],
]
WITH_IMAGES = ["--data", "good.npz", "--preprocess", "good.toml"]


@pytest.mark.parametrize("arguments", READERS, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize(
    "content",
    [b"", b"this is no model\n", b"\x89PNG\r\n\x1a\n" + bytes(1000), None],
    ids=["empty", "text", "png", "truncated"],
)
def test_a_file_that_is_no_whole_model_is_named(
    refuse: Refuse, desk: Path, arguments: list[str], content: bytes | None
) -> None:
    whole = (desk / "good.onnx").read_bytes()
    (desk / "bad.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert "bad.onnx" in refuse(*arguments)


def with_external_data(desk: Path, location: str) -> None:
    model = residual_classifier(hw=HW)
    onnx.save_model(model, desk / "bad.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (desk / "bad.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize("arguments", READERS, ids=lambda arguments: arguments[0])
def test_missing_external_data_is_named(refuse: Refuse, desk: Path, arguments: list[str]) -> None:
    with_external_data(desk, "weights.bin")
    (desk / "weights.bin").unlink()
    assert "weights.bin" in refuse(*arguments)


@pytest.mark.parametrize("arguments", READERS, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_external_data_outside_the_models_directory_is_refused(
    refuse: Refuse, desk: Path, arguments: list[str], absolute: bool
) -> None:
    with_external_data(desk, str(desk.parent / "weights.bin") if absolute else "../weights.bin")
    (desk / "weights.bin").rename(desk.parent / "weights.bin")
    told = refuse(*arguments)
    assert "bad.onnx" in told
    assert "outside the model's directory" in told or "external data" in told.lower()  # ours, or onnxruntime's


def test_a_model_that_is_nowhere_is_told_with_what_it_may_be(refuse: Refuse) -> None:
    told = refuse("inspect", "absent.onnx")
    assert "absent.onnx" in told
    assert "hint: " in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["decompose", "good.onnx", "--node", "block1/conv22=16", *WITH_IMAGES, "-o", "out.onnx"],
        ["sweep", "good.onnx", "--node", "block1/conv22", "--ranks", "1:4", *WITH_IMAGES, "-o", "out"],
        ["spectrum", "good.onnx", "--node", "block1/conv22", *WITH_IMAGES, "-o", "out"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_unknown_node_is_answered_with_the_nearest(refuse: Refuse, arguments: list[str]) -> None:
    told = refuse(*arguments, code=2)
    assert "block1/conv22" in told
    assert "nearest: block1/conv2" in told


def test_an_unknown_value_is_answered_with_the_nearest(refuse: Refuse) -> None:
    told = refuse("expose", "good.onnx", "--value", "flatt", "-o", "out.onnx", code=2)
    assert "no value named 'flatt'" in told
    assert "flat" in told.partition("hint: ")[2]


@pytest.mark.parametrize("rank", ["0", "-3", "33", "100000", "many", ""])
def test_a_rank_that_the_node_cannot_have_is_refused(refuse: Refuse, rank: str) -> None:
    told = refuse("decompose", "good.onnx", "--node", f"block1/conv2={rank}", *WITH_IMAGES, "-o", "out.onnx", code=2)
    assert "rank" in told.lower()


@pytest.mark.parametrize("ranks", ["0:4", "8:4", "1:33", "1:8:0", "a:b", "", "1:2:3:4"])
def test_a_range_of_ranks_that_the_node_cannot_have_is_refused(refuse: Refuse, ranks: str) -> None:
    told = refuse("sweep", "good.onnx", "--node", "block1/conv2", "--ranks", ranks, *WITH_IMAGES, "-o", "out", code=2)
    assert "rank" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "good.onnx"],
        ["compress", "good.onnx", "-o", "out"],
        ["spectrum", "good.onnx", "-o", "out"],
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("data", ["empty", "absent", "good.toml", "wrong.npz"])
def test_data_without_images_is_named(refuse: Refuse, desk: Path, arguments: list[str], data: str) -> None:
    (desk / "empty" / "class").mkdir(parents=True)
    np.savez(desk / "wrong.npz", pictures=np.zeros(3))
    assert data in refuse(*arguments, "--data", data, "--preprocess", "good.toml")


def test_a_verb_without_any_images_asks_for_them(refuse: Refuse) -> None:
    assert "--data" in refuse("evaluate", "good.onnx", "--preprocess", "good.toml", code=2)


def png(side: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_one_unreadable_image_among_good_ones_is_skipped_counted_and_warned_about(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog"):
        (desk / "images" / name).mkdir(parents=True)
        for number in range(3):
            (desk / "images" / name / f"{number}.png").write_bytes(png(20, number))
    (desk / "images" / "cat" / "1.png").write_bytes(b"not a png at all")
    (desk / "labels.txt").write_text("\n".join(["cat", "dog", *(f"class{number}" for number in range(2, 10))]))
    images = ["--data", "images", "--labels", "labels.txt", "--preprocess", "good.toml"]
    command = ["evaluate", "good.onnx", *images, "--json"]
    assert run(command) == 0
    printed = capsys.readouterr()
    assert '"images": 5' in printed.out
    assert '"skipped": 1' in printed.out
    assert "warning: " in printed.err
    assert "1.png" in printed.err


def test_only_unreadable_images_are_an_error(refuse: Refuse, desk: Path) -> None:
    (desk / "images").mkdir()
    (desk / "images" / "a.png").write_bytes(b"not a png at all")
    told = refuse("evaluate", "good.onnx", "--data", "images", "--preprocess", "good.toml")
    assert "images" in told


@pytest.mark.parametrize("verb", [["evaluate"], ["compress", "-o", "out"]], ids=lambda verb: verb[0])
def test_labels_beyond_the_models_outputs_are_refused(refuse: Refuse, desk: Path, verb: list[str]) -> None:
    images = np.zeros((24, *HW, 3), np.uint8)
    np.savez(desk / "many.npz", images=images, labels=np.arange(24))
    told = refuse(*verb, "good.onnx", "--data", "many.npz", "--preprocess", "good.toml")
    assert "10" in told


@pytest.mark.parametrize("verb", [["evaluate"], ["compress", "-o", "out"]], ids=lambda verb: verb[0])
def test_a_labels_file_of_another_length_than_the_outputs_is_refused(
    refuse: Refuse, desk: Path, verb: list[str]
) -> None:
    (desk / "labels.txt").write_text("cat\ndog\nbird\n")
    told = refuse(*verb, "good.onnx", *WITH_IMAGES, "--labels", "labels.txt")
    assert "10" in told
    assert "3" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["fold", "good.onnx", "-o", "taken"],
        ["expose", "good.onnx", "--value", "flat", "-o", "taken"],
        ["decompose", "good.onnx", "--node", "block1/conv2=16", *WITH_IMAGES, "-o", "taken"],
        ["spectrum", "good.onnx", *WITH_IMAGES, "-o", "taken"],
        ["sweep", "good.onnx", "--node", "block1/conv2", "--ranks", "1:4", *WITH_IMAGES, "-o", "taken"],
        ["compress", "good.onnx", *WITH_IMAGES, "-o", "taken"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_output_that_exists_is_kept(refuse: Refuse, desk: Path, arguments: list[str]) -> None:
    (desk / "taken").write_text("dear to someone")
    told = refuse(*arguments)
    assert "taken exists" in told
    assert "--overwrite" in told
    assert (desk / "taken").read_text() == "dear to someone"


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "good.onnx"],
        ["evaluate", "good.onnx", *WITH_IMAGES],
        ["compress", "good.onnx", *WITH_IMAGES, "-o", "out"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_provider_that_is_not_here_is_told_with_how_to_get_it(refuse: Refuse, arguments: list[str]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the CUDA provider")
    told = refuse(*arguments, "--provider", "cuda")
    assert "cuda" in told
    assert "hint: " in told


def test_a_provider_that_nobody_knows_is_told_with_those_known(refuse: Refuse) -> None:
    assert "openvino" in refuse("bench", "good.onnx", "--provider", "abacus", code=2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small tmpfs (a full disk is also simulated in tests/unit/test_files.py)")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_told_and_left_as_it_was(refuse: Refuse, desk: Path, small_disk: Path) -> None:
    save(residual_classifier(widths=(16, 64), hw=HW), desk / "large.onnx")
    assert "the disk is full" in refuse("fold", "large.onnx", "-o", str(small_disk / "out.onnx"))
    assert list(small_disk.iterdir()) == []


def test_a_cache_on_a_full_disk_is_told(refuse: Refuse, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small_disk / "filler").write_bytes(bytes(60_000))
    monkeypatch.setenv("RANKSMITH_CACHE", str(small_disk))
    assert "the disk is full" in refuse("compress", "good.onnx", *WITH_IMAGES, "-o", "out", "--max-drop", "100")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["inspect", "bad.onnx"], 1, "bad.onnx"),
        (["decompose", "good.onnx", "--node", "nowhere=3", "-o", "out.onnx"], 2, "nowhere"),
    ],
    ids=["not a model", "no such node"],
)
def test_the_real_command_fails_the_same_way(desk: Path, arguments: list[str], code: int, said: str) -> None:
    (desk / "bad.onnx").write_text("no model")
    command = Path(sys.executable).with_name("ranksmith")
    before = everything(desk)
    done = subprocess.run([command, *arguments], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == ""
    error, *hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert all(line.startswith("hint: ") for line in hint)
    assert everything(desk) == before
