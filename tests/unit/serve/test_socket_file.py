"""A socket's file is there for this user while somebody listens, and no longer."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from ranksmith.serve.socket_file import SocketFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "http.sock"


def connected(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(path))
    return link


def test_only_this_user_may_connect(path: Path) -> None:
    before = os.umask(0)
    try:
        file = SocketFile.listen(path, 8)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file.close()


def test_it_goes_with_its_listener(path: Path) -> None:
    file = SocketFile.listen(path, 8)
    file.close()
    file.close()
    assert not path.exists()
    assert not file.is_open


def test_who_connected_before_it_went_is_accepted_by_those_who_share_it(path: Path) -> None:
    file = SocketFile.listen(path, 8)
    with socket.socket(fileno=os.dup(file.socket.fileno())) as shared, connected(path) as link:
        file.close()
        taken, _ = shared.accept()
        with taken:
            taken.sendall(b"hello")
        assert link.recv(16) == b"hello"


def test_what_a_dead_listener_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    file = SocketFile.listen(path, 8)
    connected(path).close()
    file.close()


def test_a_living_one_is_left_alone(path: Path) -> None:
    file = SocketFile.listen(path, 8)
    with pytest.raises(OSError, match="in use"):
        SocketFile.listen(path, 8)
    connected(path).close()
    file.close()


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        SocketFile.listen(path, 8)
    assert path.read_text() == "precious"


def test_the_file_of_a_successor_is_left_alone(path: Path) -> None:
    first = SocketFile.listen(path, 8)
    path.unlink()
    second = SocketFile.listen(path, 8)
    first.close()
    connected(path).close()
    second.close()
    assert not path.exists()
