"""Where a server is reached: ports, and a Unix socket. They are its own while front ends come and go."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ranksmith.errors import UsageError
from ranksmith.serve.ports import address_of, bound
from ranksmith.serve.socket_file import SocketFile

__all__ = ["Addresses", "reserved"]

# As many as uvicorn lets wait at a port; the kernel may have a lower limit of its own.
_BACKLOG = 2048


@dataclass(frozen=True)
class Addresses:
    """
    Attributes:
        file: its socket is handed to the front ends, which all accept from it: other than a port, a path cannot be
            bound by each of them.
    """

    host: str
    http_port: int
    grpc_port: int
    file: SocketFile | None

    @property
    def told(self) -> dict[str, str]:
        """By what clients reach them, as the log and `status` say it."""
        uds = {} if self.file is None else {"http_uds": str(self.file.path.absolute())}
        return {
            "http": f"http://{address_of(self.host, self.http_port)}",
            **uds,
            "grpc": address_of(self.host, self.grpc_port),
        }

    @property
    def arguments(self) -> list[str]:
        """What a front end is told on its command line."""
        return [self.host, str(self.http_port), str(self.grpc_port)]

    @property
    def descriptors(self) -> list[int]:
        """What a front end inherits."""
        return [] if self.file is None else [self.file.socket.fileno()]

    def withdraw(self) -> None:
        """Let nobody connect any more, other than to a front end's own ports."""
        if self.file is not None:
            self.file.close()


@contextlib.contextmanager
def reserved(host: str, http_port: int, grpc_port: int, http_uds: Path | None) -> Iterator[Addresses]:
    """The addresses, until the block is left.

    Raises:
        UsageError: one of them is taken, or not ours to take.
    """
    with _port(host, http_port, "--http-port") as http, _port(host, grpc_port, "--grpc-port") as grpc:
        file = None if http_uds is None else _file(http_uds, "--http-uds")
        addresses = Addresses(host, http.getsockname()[1], grpc.getsockname()[1], file)
        try:
            yield addresses
        finally:
            addresses.withdraw()


def _port(host: str, port: int, option: str) -> socket.socket:
    """Bound and not listened on: the front ends do that, each with a socket of its own."""
    try:
        # Another server of ours would share the port with us, and take half of the requests.
        bound(host, port, shared=False).close()
        return bound(host, port)
    except OSError as error:
        raise _taken(f"{host} port {port}", error.strerror or str(error), option) from error


def _file(path: Path, option: str) -> SocketFile:
    try:
        return SocketFile.listen(path, _BACKLOG)
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            why = "another process listens there" if path.is_socket() else "what is there is not a socket"
        raise _taken(str(path), why, option) from error


def _taken(where: str, why: str, option: str) -> UsageError:
    return UsageError(f"cannot listen on {where}: {why}", hint=f"choose another with {option}")
