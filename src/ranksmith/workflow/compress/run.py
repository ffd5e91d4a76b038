"""`compress` from the first image to the bundle."""

from __future__ import annotations

__all__ = ["compress"]
