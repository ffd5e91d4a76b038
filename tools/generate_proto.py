"""Write the Python modules of src/ranksmith/serve/oip/proto from its .proto; with --check, fail where they are not
current.

Needs the very grpcio-tools that the dev extra names: another writes its own version into what it makes, and an older
protobuf than that would then refuse it.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent.parent / "src"
PROTO = "ranksmith/serve/oip/proto/open_inference.proto"

DEFAULT_POOL = "_descriptor_pool.Default()"
OWN_POOL = "_descriptor_pool.DescriptorPool()"


def generated() -> dict[Path, str]:
    """Text by path, relative to the sources."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "protoc",
            f"-I{SOURCES}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            f"--grpc_python_out={folder}",
            PROTO,
        ]
        if protoc.main(arguments) != 0:
            raise SystemExit(f"error: {PROTO} cannot be compiled")
        made = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        return {path.relative_to(folder): _adapted(path) for path in made}


def _adapted(path: Path) -> str:
    """tritonclient has the same message names in the default pool, so ours must not be there."""
    text = path.read_text(encoding="utf-8")
    if path.name.endswith("_pb2.py"):
        assert text.count(DEFAULT_POOL) == 1
        text = text.replace(DEFAULT_POOL, OWN_POOL)
    return text


def main() -> int:
    """Write the modules, or check them; the exit code."""
    found = generated()
    if "--check" in sys.argv[1:]:
        stale = [path for path, text in found.items() if _current(SOURCES / path) != text]
        if stale:
            sys.stderr.write(f"error: {stale[0]} is not current\nhint: python tools/generate_proto.py\n")
        return 1 if stale else 0
    for path, text in found.items():
        (SOURCES / path).write_text(text, encoding="utf-8")
    return 0


def _current(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
