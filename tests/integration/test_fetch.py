"""Downloads against a real HTTP server on this machine, one that misbehaves on demand."""

from __future__ import annotations

import fcntl
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ranksmith.cli.app import run
from ranksmith.errors import FetchError, OutputError, UsageError
from ranksmith.progress import Silent
from ranksmith.zoo import catalogue
from ranksmith.zoo.catalogue import ZooEntry
from ranksmith.zoo.fetch import download, fetch

CONTENT = np.random.default_rng(0).integers(0, 256, size=700_001, dtype=np.uint8).tobytes()
ENTRY = ZooEntry(name="tiny.onnx", family="tiny", sha256=hashlib.sha256(CONTENT).hexdigest(), bytes=len(CONTENT))


@dataclass
class Mirror:
    """What the server serves and how it misbehaves; what it was asked for."""

    content: bytes = CONTENT
    statuses: list[int] = field(default_factory=list)
    """Answered first, one a request, instead of the file."""
    break_after: list[int] = field(default_factory=list)
    """Bytes after which the connection is cut, one a request; then whole answers."""
    ranges: bool = True
    url: str = ""
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    mirror = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            mirror.asked.append(wanted)
            if mirror.statuses:
                self.send_error(mirror.statuses.pop(0))
                return
            if self.path != "/zoo/" + ENTRY.path:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and mirror.ranges else 0
            body = mirror.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if mirror.break_after:
                body = body[: mirror.break_after.pop(0)]
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_port}/zoo"
    yield mirror
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Listener(Silent):
    """Adds up the steps it is told of."""

    total: int | None = None
    done: int = 0

    def stage(self, title: str, total: int | None = None):  # type: ignore[no-untyped-def]
        self.total = total

        class Stage:
            def __enter__(stage):  # noqa: N805
                return self.advance

            def __exit__(stage, *details: object) -> None:  # noqa: N805
                pass

        return Stage()

    def advance(self, steps: int) -> None:
        self.done += steps


def bring(mirror: Mirror, directory: Path) -> tuple[Path, list[float], Listener]:
    pauses: list[float] = []
    listener = Listener()
    path = download(ENTRY, mirror.url, directory, progress=listener, pause=pauses.append)
    return path, pauses, listener


def test_a_file_is_fetched_once_and_then_served_from_the_cache(mirror: Mirror, tmp_path: Path) -> None:
    path, pauses, listener = bring(mirror, tmp_path / "new" / "cache")
    assert path.read_bytes() == CONTENT
    assert listener.done == listener.total == 1
    assert pauses == []
    assert bring(mirror, tmp_path / "new" / "cache")[0] == path
    assert len(mirror.asked) == 1
    assert [file.name for file in path.parent.iterdir()] == ["tiny.onnx"]


def test_a_connection_that_breaks_off_is_resumed_where_it_stopped(mirror: Mirror, tmp_path: Path) -> None:
    mirror.break_after = [100_000, 300_000]
    path, pauses, _ = bring(mirror, tmp_path)
    assert path.read_bytes() == CONTENT
    assert mirror.asked == [None, "bytes=100000-", "bytes=400000-"]
    assert pauses == [0.5, 0.5]


def test_what_an_earlier_process_left_is_gone_on_with(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx.part").write_bytes(CONTENT[:650_000])
    path, _, listener = bring(mirror, tmp_path)
    assert path.read_bytes() == CONTENT
    assert mirror.asked == ["bytes=650000-"]
    assert listener.done == listener.total


def test_a_complete_part_is_only_checked(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx.part").write_bytes(CONTENT)
    assert bring(mirror, tmp_path)[0].read_bytes() == CONTENT
    assert mirror.asked == []


def test_a_server_that_ignores_range_restarts_the_download(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ranges = False
    mirror.break_after = [200_000]
    path, _, listener = bring(mirror, tmp_path)
    assert path.read_bytes() == CONTENT
    assert mirror.asked == [None, "bytes=200000-"]
    assert listener.done == listener.total


def test_a_wrong_file_of_the_right_size_is_deleted_and_told(mirror: Mirror, tmp_path: Path) -> None:
    mirror.content = bytes(len(CONTENT))
    with pytest.raises(FetchError, match="sha256 is .* not " + ENTRY.sha256) as failure:
        bring(mirror, tmp_path)
    assert failure.value.hint is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"<html>sign in first</html>", CONTENT + b"more"])
def test_a_file_of_another_size_is_refused_before_it_is_read(mirror: Mirror, tmp_path: Path, content: bytes) -> None:
    mirror.content = content
    with pytest.raises(FetchError, match=f"has {len(content)} bytes, not {len(CONTENT)}"):
        bring(mirror, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(b"\0" * len(CONTENT))
    assert bring(mirror, tmp_path)[0].read_bytes() == CONTENT


def test_an_overloaded_server_is_asked_again_after_growing_pauses(mirror: Mirror, tmp_path: Path) -> None:
    mirror.statuses = [503, 429, 500]
    path, pauses, _ = bring(mirror, tmp_path)
    assert path.read_bytes() == CONTENT
    assert pauses == [0.5, 1.0, 2.0]


def test_a_server_that_stays_broken_is_given_up_and_the_part_is_kept(mirror: Mirror, tmp_path: Path) -> None:
    mirror.break_after = [1000, 0, 0, 0, 0, 0]
    with pytest.raises(FetchError, match="broke off after 1000 of 700001 bytes") as failure:
        bring(mirror, tmp_path)
    assert failure.value.hint is not None
    assert "resume" in failure.value.hint
    assert (tmp_path / "tiny.onnx.part").read_bytes() == CONTENT[:1000]


def test_a_missing_file_is_told_at_once(mirror: Mirror, tmp_path: Path) -> None:
    mirror.url += "/elsewhere"
    with pytest.raises(FetchError, match=r"elsewhere/validated/.*tiny\.onnx: HTTP 404"):
        bring(mirror, tmp_path)
    assert len(mirror.asked) == 1


def test_an_absent_server_is_told_with_the_variable_that_names_another(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="refused") as failure:
        bring(Mirror(url="http://127.0.0.1:9/zoo"), tmp_path)
    assert failure.value.hint is not None
    assert "RANKSMITH_ZOO_URL" in failure.value.hint


@pytest.mark.parametrize("url", ["file:///etc", "ftp://example.org", "/a/path"])
def test_only_http_is_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="not an http"):
        bring(Mirror(url=url), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_download_once(mirror: Mirror, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: bring(mirror, tmp_path)[0], range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(mirror.asked) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.onnx"]


def test_one_that_waited_uses_what_the_other_fetched(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked_late(stream: object, operation: int) -> None:
        (tmp_path / "tiny.onnx").write_bytes(CONTENT)

    monkeypatch.setattr(fcntl, "flock", locked_late)
    assert bring(mirror, tmp_path)[0].read_bytes() == CONTENT
    assert mirror.asked == []
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.onnx"]


def test_a_cache_that_cannot_be_written_is_told(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a directory should be")
    with pytest.raises(OutputError, match="cannot write") as failure:
        bring(mirror, tmp_path / "cache")
    assert failure.value.hint is not None
    assert "RANKSMITH_CACHE" in failure.value.hint


def test_fetch_reads_the_mirror_and_the_cache_from_the_environment(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "ZOO", (ENTRY,))
    monkeypatch.setenv("RANKSMITH_ZOO_URL", mirror.url + "/")
    monkeypatch.setenv("RANKSMITH_CACHE", str(tmp_path))
    assert run(["fetch", "tiny"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'zoo' / 'tiny.onnx'}\n"
    assert "fetch tiny.onnx" in printed.err
    assert fetch("tiny").read_bytes() == CONTENT


def test_the_fetch_verb_lists_the_entries_and_wants_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "--list"]) == 0
    assert "resnet50-v1-12" in capsys.readouterr().out
    assert run(["fetch"]) == 2
    assert "hint: " in capsys.readouterr().err
