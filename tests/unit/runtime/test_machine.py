"""The machine's description, its fingerprint, and the doctor's findings."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ranksmith.results import Machine
from ranksmith.runtime import doctor, machine, openvino, providers
from ranksmith.runtime.session import PROVIDERS

HERE = Machine(
    cpu="A CPU",
    flags=["avx2", "fma"],
    cores=4,
    memory_bytes=1,
    os="Linux",
    python="3.11",
    libraries={"onnxruntime": "1"},
)


def test_this_machine_is_described() -> None:
    here = machine.machine()
    assert here.cpu
    assert here.cores >= 1
    assert here.memory_bytes > 0
    assert {"numpy", "onnxruntime"} <= set(here.libraries)


@pytest.mark.parametrize(
    ("flags", "provider", "block"),
    [(["avx2", "avx512f"], "cpu", 16), (["avx2"], "cpu", 8), (["avx512f"], "openvino", 16), (["avx512f"], "cuda", 8)],
)
def test_ranks_are_aligned_to_the_layout_of_the_cpu_or_gpu(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], provider: str, block: int
) -> None:
    monkeypatch.setattr(machine, "_cpu", lambda: ("A CPU", flags))
    assert machine.channel_block(provider) == block


def test_a_machine_without_cpuinfo_still_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: object, **options: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert machine.machine().cpu
    assert machine.machine().flags == []


def test_the_fingerprint_changes_with_whatever_changes_a_latency() -> None:
    prints = {
        machine.fingerprint(HERE, "cpu", 1),
        machine.fingerprint(HERE, "cpu", 2),
        machine.fingerprint(HERE, "openvino", 1),
        machine.fingerprint(msgspec.structs.replace(HERE, flags=["avx2"]), "cpu", 1),
        machine.fingerprint(msgspec.structs.replace(HERE, libraries={"onnxruntime": "2"}), "cpu", 1),
        machine.fingerprint(msgspec.structs.replace(HERE, cpu="Another"), "cpu", 1),
    }
    assert len(prints) == 6
    same = msgspec.structs.replace(HERE, flags=["fma", "avx2"], python="3.13", memory_bytes=2)
    assert machine.fingerprint(same, "cpu", 1) == machine.fingerprint(HERE, "cpu", 1)


def test_every_provider_has_a_status_and_the_absent_ones_a_hint() -> None:
    found = providers.statuses()
    assert [status.name for status in found] == list(PROVIDERS)
    assert found[0].available
    assert all(status.available or status.hint for status in found)


def test_a_provider_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "installed", lambda: False)
    status = {status.name: status for status in providers.statuses()}["openvino"]
    assert not status.available
    assert status.hint == "pip install 'ranksmith[openvino]'"


def test_the_doctor_reports_machine_providers_and_extras() -> None:
    found = doctor.examine()
    assert found.threads == found.machine.cores
    assert found.channel_block in (8, 16)
    assert {status.name for status in found.optional} == {"ray", "torch"}
    assert found.cache


def _problems(monkeypatch: pytest.MonkeyPatch, here: Machine = HERE) -> list[str]:
    monkeypatch.setattr(doctor, "machine", lambda: here)
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    return doctor.examine().problems


def test_the_doctor_finds_what_would_spoil_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("150000 100000\n")
    readonly = tmp_path / "file"
    readonly.touch()
    monkeypatch.setattr(doctor, "CPU_QUOTA", quota)
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    monkeypatch.setenv("RANKSMITH_CACHE", str(readonly / "cache"))
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1"}
    problems = "\n".join(_problems(monkeypatch, msgspec.structs.replace(HERE, flags=[], libraries=both)))
    for word in ("AVX2", "uninstall one", "1.5 cores", "busy", "RANKSMITH_CACHE"):
        assert word in problems


def test_a_quiet_machine_has_no_problems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("max 100000\n")
    monkeypatch.setattr(doctor, "CPU_QUOTA", quota)
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert _problems(monkeypatch) == []
