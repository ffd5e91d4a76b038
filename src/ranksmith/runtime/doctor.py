"""What this machine can do, what is missing, and what would spoil measurements."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from ranksmith.config import cache_dir
from ranksmith.results import Doctor, Machine, ProviderStatus
from ranksmith.runtime.machine import channel_block, machine
from ranksmith.runtime.providers import statuses
from ranksmith.runtime.session import default_threads

__all__ = ["examine"]

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

_OPTIONAL = (
    ("ray", "ray", "evaluation and search on several machines"),
    ("torch", "train", "training the demo model"),
)


def examine() -> Doctor:
    """Look at this machine; loads every provider that is installed."""
    here = machine()
    providers = statuses()
    return Doctor(
        machine=here,
        threads=default_threads(),
        channel_block=channel_block("cpu"),
        providers=providers,
        optional=[_optional(*entry) for entry in _OPTIONAL],
        cache=str(cache_dir()),
        problems=_problems(here, providers),
    )


def _optional(package: str, extra: str, purpose: str) -> ProviderStatus:
    try:
        detail = f"{metadata.version(package)}, for {purpose}"
    except metadata.PackageNotFoundError:
        hint = f"pip install 'ranksmith[{extra}]'"
        return ProviderStatus(name=package, available=False, detail=f"not installed; for {purpose}", hint=hint)
    return ProviderStatus(name=package, available=True, detail=detail)


def _problems(here: Machine, providers: list[ProviderStatus]) -> list[str]:
    found = [f"{status.name}: {status.detail}" for status in providers if status.name == "cpu" and not status.available]
    if platform.machine() in ("x86_64", "AMD64") and "avx2" not in here.flags:
        found.append("this CPU has no AVX2: convolutions run without the blocked layout that ranks are aligned for")
    if {"onnxruntime", "onnxruntime-gpu"} <= set(here.libraries):
        found.append("onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall one")
    if (quota := _quota()) is not None and quota < here.cores:
        found.append(f"a CPU quota of {quota:g} cores: more than {max(1, int(quota))} --threads will be throttled")
    if (load := _load()) > 0.5:
        found.append(f"the machine is busy (load {load:.1f}): latencies will be noisy")
    if not _writable(cache_dir()):
        found.append(f"the cache {cache_dir()} cannot be written: set RANKSMITH_CACHE to a directory that can")
    return found


def _quota() -> float | None:
    """How many cores' worth of time this control group may use; None without a limit."""
    try:
        allowed, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return int(allowed) / int(period)
    except (OSError, ValueError):
        return None


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)
