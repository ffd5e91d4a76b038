"""Downloading a zoo entry into the cache: resumed where it broke off, checked by its SHA-256.

What has arrived stays in `<name>.part` until it is complete, so that an interrupted download goes on where it
stopped, in this process after a pause or in the next one. The part is locked while it is written: of two
processes that want the same file, one downloads and the other waits for it. Only the file whose checksum is
right is moved to its name.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ranksmith import config
from ranksmith._version import __version__
from ranksmith.errors import FetchError, OutputError, UsageError
from ranksmith.files import sha256_of
from ranksmith.progress import Progress, Silent
from ranksmith.zoo import catalogue
from ranksmith.zoo.catalogue import ZooEntry

__all__ = ["download", "fetch"]

_ATTEMPTS = 5
"""In a row without a byte arriving; any progress starts the count again."""
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 18
_MIRROR_HINT = "RANKSMITH_ZOO_URL points to another mirror; run it again to resume"


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """The path of a zoo entry in the cache; downloaded first where it is not there yet.

    Raises:
        UsageError: no such entry, or RANKSMITH_ZOO_URL is not an http(s) address.
        FetchError: the download failed or is not the file the catalogue knows.
        OutputError: the cache cannot be written.
    """
    entry = catalogue.get(name)
    return download(entry, config.zoo_url(), config.cache_dir() / "zoo", progress=progress or Silent())


def download(
    entry: ZooEntry, base_url: str, directory: Path, *, progress: Progress, pause: Callable[[float], None] = time.sleep
) -> Path:
    """Bring `entry` from `base_url` into `directory`; `pause` waits between attempts."""
    if not base_url.startswith(("http://", "https://")):
        raise UsageError(
            f"{base_url!r} is not an http(s) address", hint="set RANKSMITH_ZOO_URL to one, or unset it for the default"
        )
    target = directory / entry.name
    if _is_right(target, entry):
        return target
    url = f"{base_url}/{entry.path}"
    with _writing(directory), _locked(directory / f"{entry.name}.part", progress) as part:
        if _is_right(target, entry):  # another process fetched it while this one waited for the lock
            Path(part.name).unlink()
            return target
        megabytes = -(-entry.bytes // 1_000_000)
        with progress.stage(f"fetch {entry.name} (MB)", megabytes) as advance:
            _Download(entry, url, part, advance, pause).run()
        _check(part, entry, url)
        Path(part.name).replace(target)
    return target


def _is_right(path: Path, entry: ZooEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full" if full else error.strerror
        raise OutputError(
            f"cannot write {directory}: {why}", hint="RANKSMITH_CACHE names another directory for downloads"
        ) from error


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[BinaryIO]:
    """The file at `path`, open for appending and locked against other processes."""
    while True:
        with path.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.note(f"waiting for another process that fetches {path.stem}")
                fcntl.flock(stream, fcntl.LOCK_EX)
            # Whoever held the lock before may have moved the file away: then this is no longer the part.
            if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                yield stream
                return


def _check(part: BinaryIO, entry: ZooEntry, url: str) -> None:
    found = sha256_of(Path(part.name))
    if found != entry.sha256:
        Path(part.name).unlink()
        raise FetchError(
            f"{url}: sha256 is {found}, not {entry.sha256}",
            hint="the mirror serves another file, or it was damaged on the way; run it again to start over",
        )


@dataclass
class _Download:
    """Bring `part` to the entry's full size."""

    entry: ZooEntry
    url: str
    part: BinaryIO
    advance: Callable[[int], None]
    pause: Callable[[float], None]
    told_mb: int = 0

    def run(self) -> None:
        failures = 0
        self._tell()
        while (before := self.part.tell()) < self.entry.bytes:
            try:
                self._receive()
            except (http.client.HTTPException, OSError) as error:
                problem = _explain(error)
            else:
                problem = f"the connection broke off after {self.part.tell()} of {self.entry.bytes} bytes"
            if self.part.tell() >= self.entry.bytes:
                break
            failures = 1 if self.part.tell() > before else failures + 1
            if failures == _ATTEMPTS:
                raise FetchError(f"{self.url}: {problem}", hint=_MIRROR_HINT)
            self.pause(0.5 * 2 ** (failures - 1))

    def _receive(self) -> None:
        """One request: go on after what is there, until the server has no more."""
        headers = {"User-Agent": f"ranksmith/{__version__}", "Accept-Encoding": "identity"}
        if offset := self.part.tell():
            headers["Range"] = f"bytes={offset}-"
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310  # `download` checked the scheme
        try:
            response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise FetchError(f"{self.url}: {_explain(error)}", hint=_MIRROR_HINT) from error
            raise
        with response:
            if response.status != 206:  # the server ignores Range: it sends the file from its start
                self._restart()
            self._expect_size(response)
            while chunk := response.read1(_CHUNK_BYTES):
                self._write(chunk)

    def _expect_size(self, response: http.client.HTTPResponse) -> None:
        if response.length is not None and self.part.tell() + response.length != self.entry.bytes:
            size = self.part.tell() + response.length
            Path(self.part.name).unlink()
            raise FetchError(
                f"{self.url}: the file there has {size} bytes, not {self.entry.bytes}",
                hint="the mirror serves another file; RANKSMITH_ZOO_URL points to another mirror",
            )

    def _restart(self) -> None:
        self.part.seek(0)
        self.part.truncate()
        self._tell()

    def _write(self, chunk: bytes) -> None:
        with _writing(Path(self.part.name).parent):  # told apart here from the network's errors, which are retried
            self.part.write(chunk)
            self.part.flush()
        self._tell()

    def _tell(self) -> None:
        here_mb = -(-self.part.tell() // 1_000_000)
        self.advance(here_mb - self.told_mb)
        self.told_mb = here_mb


def _explain(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(reason) or type(reason).__name__
