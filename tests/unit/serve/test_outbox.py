"""Answers of one moment: all are made before the first is written."""

from __future__ import annotations

import asyncio

from ranksmith.serve.frontend.outbox import Outbox


def test_everything_is_written_in_order_once_everything_has_been_made() -> None:
    async def main() -> None:
        outbox, written = Outbox(), []

        def write(data: bytes) -> None:
            written.append(data)
            if data == b"a":
                outbox.put(write, b"c")

        outbox.put(write, b"a")
        outbox.put(write, b"b")
        assert written == []
        await asyncio.sleep(0)
        assert written == [b"a", b"b"]
        await asyncio.sleep(0)
        assert written == [b"a", b"b", b"c"]

    asyncio.run(main())
