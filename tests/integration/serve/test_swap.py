"""A swap is a transaction: no request is lost, every answer is from the generation it names, a bad bundle changes
nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ranksmith.bundle.golden import load_golden, save_golden
from ranksmith.runtime.session import open_session
from ranksmith.workflow.source import resolve
from tests.integration.serve.bundles import demo_bundle, rewrite
from tests.integration.serve.server import Server, serving
from tests.integration.serve.test_crashes import MARK, body_of, images

SHIFTS = (100.0, 200.0)
# Fifty take three minutes on two cores.
SWAPS = int(os.environ.get("RANKSMITH_TEST_SWAPS", "12"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [demo_bundle(folder / str(int(shift)), shift=shift) for shift in SHIFTS]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def ranksmith(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ranksmith", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def swapped(verb: str, state: Path, *arguments: str) -> dict[str, Any]:
    done = ranksmith(verb, *arguments, "--state-dir", str(state), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ask(client: httpx.Client, array: Any) -> tuple[str, Any]:
    """The version that answered, and its logits."""
    content, headers = body_of(array)
    response = client.post("/v2/models/demo/infer", content=content, headers=headers)
    response.raise_for_status()
    head = int(response.headers["Inference-Header-Content-Length"])
    told = json.loads(response.content[:head])
    return told["model_version"], np.frombuffer(response.content[head:], np.float32).reshape(-1, 10)


def active(state: Path) -> list[tuple[int, str]]:
    told = swapped("status", state)
    return [(entry["generation"], entry["source"]) for entry in told["generations"] if entry["is_active"]]


class Clients:
    """Clients that ask all the time and hold every answer against the generation that it names."""

    def __init__(self, server: Server, count: int) -> None:
        self.failures: list[str] = []
        self.versions: set[str] = set()
        self.shift_of: dict[str, float] = {"1": 0.0}
        self._server = server
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(count)]
        self._session = open_session(resolve("demo").path, threads=1)

    def _run(self, seed: int) -> None:
        array = images(2, seed)
        plain = self._session.run({"image": array})[0]
        with self._server.client() as client:
            while not self._over.is_set():
                try:
                    version, logits = ask(client, array)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                self.versions.add(version)
                shift = float(np.median(logits - plain))
                expected = 0.0 if version == "1" else SHIFTS[int(version) % 2]
                if abs(shift - expected) > 1e-2:
                    self.failures.append(f"version {version} answered with {shift}")

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def memory_mb(pids: list[int]) -> float:
    """Resident, of the processes together."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_swaps_under_load_lose_no_request(bundles: list[Path], state: Path) -> None:
    arguments = ("demo", "--state-dir", str(state), "--rollback-window", "0")
    with serving(*arguments) as server:
        early = 0.0
        with Clients(server, 16) as clients:
            for number in range(2, SWAPS + 2):
                # Even generations are the first bundle, odd ones the second.
                receipt = swapped("deploy", state, str(bundles[number % 2]))
                assert receipt["new_generation"] == number
                server.wait_for("generation ended", times=number - 1)
                if number == 5:
                    early = memory_mb([server.process.pid, *server.children("frontend")])
        late = memory_mb([server.process.pid, *server.children("frontend")])
        assert len(server.children("worker")) == 1
    assert clients.failures == []
    assert len(clients.versions) > 0.8 * SWAPS
    assert late < 1.2 * early + 10
    assert len(list((state / "receipts").iterdir())) == SWAPS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """With its state directory."""
    state = tmp_path_factory.mktemp("state")
    crashing = {"RANKSMITH_CRASH_ON": str(MARK)}
    with serving("demo", "--state-dir", str(state), environment=crashing) as running:
        yield running, state


class TestBadBundles:
    """What was served goes on serving, by the same process."""

    def refused(self, server: tuple[Server, Path], bundle: Path, why: str, hint: str = "") -> None:
        running, state = server
        workers = running.children("worker")
        done = ranksmith("deploy", str(bundle), "--state-dir", str(state))
        assert done.returncode == 1
        assert why in done.stderr
        assert hint in done.stderr
        assert running.children("worker") == workers
        assert [generation for generation, _ in active(state)] == [1]
        with running.client() as client:
            assert ask(client, images(1, 0))[0] == "1"

    def test_a_file_that_was_changed(self, server: tuple[Server, Path], tmp_path: Path) -> None:
        bundle = demo_bundle(tmp_path / "bundle", shift=1.0)
        (bundle / "labels.txt").write_text("other", encoding="utf-8")
        self.refused(server, bundle, "labels.txt")

    def test_half_a_copy(self, server: tuple[Server, Path], tmp_path: Path) -> None:
        bundle = demo_bundle(tmp_path / "bundle", shift=1.0)
        (bundle / "golden.npz").unlink()
        self.refused(server, bundle, "golden.npz")

    def test_no_bundle_at_all(self, server: tuple[Server, Path], tmp_path: Path) -> None:
        self.refused(server, tmp_path, "is not a bundle")

    def test_wrong_golden_outputs(self, server: tuple[Server, Path], tmp_path: Path) -> None:
        bundle = demo_bundle(tmp_path / "bundle", shift=1.0)
        inputs, outputs = load_golden(bundle / "golden.npz")
        save_golden(bundle / "golden.npz", inputs, {"logits": outputs["logits"] + 1})
        rewrite(bundle)
        self.refused(server, bundle, "golden output")

    def test_other_outputs(self, server: tuple[Server, Path], tmp_path: Path) -> None:
        bundle = demo_bundle(tmp_path / "bundle", shift=1.0, outputs="scores")
        self.refused(server, bundle, "scores FP32", hint="hint: deploy with --force")

    def test_a_model_that_cannot_be_loaded(self, server: tuple[Server, Path], tmp_path: Path) -> None:
        bundle = demo_bundle(tmp_path / "bundle", shift=1.0)
        (bundle / "model.onnx").write_bytes(b"no model")
        rewrite(bundle)
        self.refused(server, bundle, "model.onnx")

    def test_a_model_that_crashes_its_worker(self, server: tuple[Server, Path], tmp_path: Path) -> None:
        bundle = demo_bundle(tmp_path / "bundle", shift=1.0, first=MARK)
        self.refused(server, bundle, "the worker died while it was loaded: SIGABRT")

    def test_another_model_s_name(self, server: tuple[Server, Path], tmp_path: Path) -> None:
        done = ranksmith("deploy", str(tmp_path), "--model", "nope", "--state-dir", str(server[1]))
        assert done.returncode == 1
        assert "there is no model 'nope'" in done.stderr


def test_what_was_active_is_served_again_after_a_restart(bundles: list[Path], state: Path) -> None:
    with serving("demo", "--state-dir", str(state)) as server:
        swapped("deploy", state, str(bundles[0]))
        assert server.terminate() == 0
    with serving("demo", "--state-dir", str(state)) as server, server.client() as client:
        assert active(state) == [(2, str(bundles[0]))]
        assert ask(client, images(1, 0))[0] == "2"


def test_a_rollback_goes_back_at_once_while_the_old_one_is_warm(bundles: list[Path], state: Path) -> None:
    with serving("demo", "--state-dir", str(state)) as server, server.client() as client:
        before = server.children("worker")
        swapped("deploy", state, str(bundles[0]))
        receipt = swapped("rollback", state)
        assert receipt["new_generation"] == 1
        assert before[0] in server.children("worker")
        assert ask(client, images(1, 0))[0] == "1"


def test_a_second_server_with_the_same_state_directory_is_refused(state: Path) -> None:
    with (
        serving("demo", "--state-dir", str(state)),
        serving("demo", "--state-dir", str(state), ready=False) as second,
    ):
        assert second.process.wait(60) == 2
        assert any("another server uses this state directory" in line for line in second.lines)


def test_a_model_that_a_worker_refuses_is_told_with_what_to_do(tmp_path: Path) -> None:
    # As if it were not installed.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['openvino'] = None", encoding="utf-8")
    without = {"PYTHONPATH": str(tmp_path)}
    with serving("demo", "--provider", "openvino", ready=False, environment=without) as server:
        assert server.process.wait(60) == 1
    assert server.lines[-2].startswith("error: ")
    assert server.lines[-1] == "hint: pip install 'ranksmith[openvino]'"


def test_without_a_server_the_admin_verbs_say_so(tmp_path: Path) -> None:
    for verb in (["status"], ["rollback"], ["deploy", str(tmp_path)]):
        done = ranksmith(*verb, "--state-dir", str(tmp_path))
        assert done.returncode == 2
        assert "no server runs with this state directory" in done.stderr
