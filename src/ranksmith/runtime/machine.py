"""The machine that something was measured on, and what of it decides whether a time still holds."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

from ranksmith.results import Machine
from ranksmith.runtime.session import default_threads

__all__ = ["channel_block", "fingerprint", "machine"]

# Only the flags that make a runtime choose other kernels.
_KERNEL_FLAGS = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni",
    "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino")


def machine() -> Machine:
    """Describe this machine."""
    model, flags = _cpu()
    return Machine(
        cpu=model,
        flags=flags,
        cores=default_threads(),
        memory_bytes=_memory_bytes(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        libraries=_libraries(),
    )


def channel_block(provider: str) -> int:
    """To a multiple of how many channels a rank is aligned for `provider` on this machine.

    On the CPU it is the blocked layout's block (16 with AVX-512, 8 without); on a GPU 8, which its
    half-precision matrix units ask for.
    """
    if provider in ("cuda", "tensorrt"):
        return 8
    return 16 if "avx512f" in _cpu()[1] else 8


def fingerprint(machine: Machine, provider: str, threads: int) -> str:
    """16 hexadecimal digits that change when a latency measured here no longer holds."""
    libraries = [f"{name}={version}" for name, version in sorted(machine.libraries.items())]
    parts = [machine.cpu, *sorted(machine.flags), str(machine.cores), *libraries, provider, str(threads)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cpu() -> tuple[str, list[str]]:
    """The CPU's name and its flags that change kernels, in a fixed order."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass  # not Linux
    present = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, [flag for flag in _KERNEL_FLAGS if flag in present]


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


def _libraries() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
