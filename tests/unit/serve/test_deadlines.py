"""A request that still waits at its deadline is told of once, whatever else waits."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from ranksmith.serve.frontend.deadlines import Deadlines


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 0.01), st.booleans()), max_size=30))
def test_only_what_still_waits_is_told_of_and_not_before_its_time(asked: list[tuple[float, bool]]) -> None:
    async def work() -> None:
        start = time.monotonic()
        waiting: dict[int, float] = {}
        told: list[int] = []

        def passed(number: int) -> None:
            assert waiting.pop(number) <= time.monotonic()
            told.append(number)

        deadlines = Deadlines(waiting, passed)
        for number, (after_s, _) in enumerate(asked):
            waiting[number] = start + after_s
            deadlines.add(number, start + after_s)
        for number, (_, is_answered) in enumerate(asked):
            if is_answered:
                del waiting[number]
        while waiting:
            await asyncio.sleep(0.001)
        assert sorted(told) == [number for number, (_, is_answered) in enumerate(asked) if not is_answered]

    asyncio.run(work())
