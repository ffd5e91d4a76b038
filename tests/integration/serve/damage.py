"""What fuzzing makes of good requests: a few things wrong, most of them where a format has its structure."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["damaged", "damaged_json", "damaged_text"]

_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 1.5, 2**31, 2**63, 2**64, 10**30, 1e308, float("inf"), float("nan")),
    *("", "x", "x" * 2000, "\0", "\ud800", "../../etc/passwd", "FP32", "BYTES", "image", "demo"),
    *([], {}, [[]], [[1, 2], [3]], [None], {"a": {"b": []}}),
)
_TOKENS = (b"\x00", b"\xff", b"-", b"9", b"[", b"}", b'"', b"\r\n", b":")


def damaged(content: bytes, rng: random.Random, *, near: int = 60) -> bytes:
    """Bytes with one to eight things wrong.

    Args:
        near: most are about so far from the beginning, where formats have their structure.
    """
    found = content
    for _ in range(rng.randint(1, 8)):
        place = int(rng.expovariate(1 / near)) if rng.random() < 0.7 else rng.randrange(len(found) + 1)
        at = min(place, len(found))
        start, rest = found[:at], found[at:]
        found = (
            start + rng.randbytes(1) + rest[1:],
            start + bytes(each ^ 1 << rng.randrange(8) for each in rest[:1]) + rest[1:],
            start + rng.choice(_TOKENS) + rest[1:],
            start + rng.randbytes(rng.randint(1, 20)) + rest,
            start + rest[rng.randint(1, 20) :],
            start + rest[:30] + rest,
        )[rng.randrange(6)]
    return found[: rng.randrange(len(found) + 1)] if rng.random() < 0.1 else found


def damaged_text(text: str, rng: random.Random) -> str:
    if rng.random() < 0.7:
        return text
    return rng.choice([text[:-1], text + "0", "-" + text, "", "0", text * 2, text.replace("boundary", "b")])


def damaged_json(value: Any, rng: random.Random) -> Any:
    """A value that is still JSON, with one thing wrong somewhere inside."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(sorted(value))
        rest = {key: each for key, each in value.items() if key != name}
        return rng.choice(
            [rest, rest | {name + "s": value[name]}, *[rest | {name: damaged_json(value[name], rng)} for _ in range(4)]]
        )
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        start, one, rest = value[:at], value[at], value[at + 1 :]
        return rng.choice([start + rest, [*start, one, one, *rest], *[[*start, damaged_json(one, rng), *rest]] * 4])
    return rng.choice(_VALUES)
