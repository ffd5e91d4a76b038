"""TCP ports that several processes listen on side by side (SO_REUSEPORT)."""

from __future__ import annotations

import socket

__all__ = ["address_of", "bound"]


def address_of(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bound(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """A socket that is bound and does not listen yet.

    Args:
        shared: with others of ours; else the port has to be free.

    Raises:
        OSError: the port is taken, or not ours to take.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind((host, port))
    except OSError:
        found.close()
        raise
    return found
