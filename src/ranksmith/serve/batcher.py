"""Which entries an idle session runs next, and how long a new one would wait. Pure: the clock is an argument.

*Order.* The oldest entry of all decides the group, so no group starves. Its batch takes the group's entries in order
and ends before the first that does not fit: one that would pass the limit of rows, or one that must be alone. Oldest
means added first.

*Work-conserving.* An idle session takes what is queued at once. It waits only when that raises the rows per second:
with k rows queued, λ rows arriving per second and a batch of b rows taking α + β·b, running now yields
k / (α + β·k), waiting w seconds first yields (k + λw) / (w + α + β·(k + λw)), and the second is larger exactly if

    k < λ·α,

whatever w is. So it waits for the batch to reach g = min(limit, ⌊λ·α⌋) rows, for the (g − k) / λ < α seconds which
that should take and never longer, and only if every queued entry would still be answered in time by the batch of g:
by its deadline, and within the target of its arrival. With neither, or with another group queued, it never waits.

*Arrival rate.* λ = S / τ with S ← S·exp(−Δt / τ) + rows; τ is 1 s, or 20·α where that is longer, so that the rows
which have just arrived hardly count as a promise of more.

*Limit.* Additive increase, multiplicative decrease: a batch within the target raises the limit by a row, one beyond
it halves the limit, unless it was a single entry of more rows, which no limit could have shortened.

*Curve.* A normalised least-mean-squares step of η = 0.05, α and β·b each counted in units of its own size: with the
error e = ms − (α + β·b), cut at ± 100 % of the prediction,

    α ← α + η·e·α² / (α² + (β·b)²),   β·b ← β·b + η·e·(β·b)² / (α² + (β·b)²).

The prediction moves by η·e, neither can become negative, and one stall moves it by 5 % at most.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from ranksmith.serve.cost import CostCurve

__all__ = ["Batcher", "Entry"]

_STEP = 0.05
_MEMORY_S = 1.0
_MEMORY_IN_ALPHAS = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that waits.

    Attributes:
        key: hashable, and unique among those waiting.
        rows: at least 1; never split.
        group: only equal groups share a batch (shapes and types).
        arrived_s, deadline_s: on the clock that is handed to the batcher.
        alone: in a batch of its own, as the suspect of a crash.
    """

    key: Any
    rows: int
    group: Hashable
    arrived_s: float
    deadline_s: float | None = None
    alone: bool = False

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"an entry has at least one row, not {self.rows}")


class Batcher:
    """The queue of one session."""

    def __init__(self, curve: CostCurve, *, limit: int, target_ms: float | None = None) -> None:
        if limit < 1:
            raise ValueError(f"the limit of a batch is at least one row, not {limit}")
        if target_ms is not None and not target_ms > 0:
            raise ValueError(f"the target is above 0 ms, not {target_ms}")
        self._curve = curve
        self._most = limit
        self._target_ms = target_ms
        self._limit = limit if target_ms is None else curve.rows_within(target_ms, limit)
        self._arrivals = _Arrivals(max(_MEMORY_S, _MEMORY_IN_ALPHAS * curve.alpha_ms / 1000))
        # Not a dict: finding the first of one that is emptied from the front takes ever longer.
        self._waiting: OrderedDict[Hashable, Entry] = OrderedDict()
        self._lanes: dict[Hashable, _Lane] = {}
        self._rows = 0
        self._held_until_s = math.inf
        # No waiting entry with a deadline has an earlier one, or more rows.
        self._earliest_s = math.inf
        self._largest = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def rows(self) -> int:
        """The rows that wait."""
        return self._rows

    @property
    def limit(self) -> int:
        """The rows that a batch may have now: between 1 and the limit given."""
        return self._limit

    @property
    def curve(self) -> CostCurve:
        """What a batch is now believed to cost."""
        return self._curve

    def add(self, entry: Entry) -> None:
        """Queue behind all others."""
        if entry.key in self._waiting:
            raise ValueError(f"an entry with key {entry.key!r} waits already")
        self._waiting[entry.key] = entry
        self._lanes.setdefault(entry.group, _Lane()).add(entry)
        self._rows += entry.rows
        self._arrivals.add(entry.arrived_s, entry.rows)
        if entry.deadline_s is not None:
            self._earliest_s = min(self._earliest_s, entry.deadline_s)
            self._largest = max(self._largest, entry.rows)

    def cancel(self, key: Hashable) -> bool:
        """Forget an entry; False if none waits under this key (it runs, has run, or never was)."""
        entry = self._waiting.get(key)
        if entry is None:
            return False
        self._lanes[entry.group].remove(entry)
        self._forget([entry])
        return True

    def shrink(self, key: Hashable, rows: int) -> None:
        """Some of a waiting entry's rows are not needed any more: `rows` are left, in the same place."""
        entry = self._waiting[key]
        if not 1 <= rows <= entry.rows:
            raise ValueError(f"{entry.rows} rows cannot shrink to {rows}")
        smaller = replace(entry, rows=rows)
        self._waiting[key] = smaller
        self._lanes[entry.group].replace(smaller)
        self._rows -= entry.rows - rows

    def expired(self, now: float) -> list[Entry]:
        """Remove and return what cannot be answered by its deadline, even if it ran now and by itself."""
        if not self._too_late(now, self._largest, self._earliest_s):
            return []
        dated = [(entry, entry.deadline_s) for entry in self._waiting.values() if entry.deadline_s is not None]
        late = [entry for entry, deadline_s in dated if self._too_late(now, entry.rows, deadline_s)]
        for entry in late:
            self.cancel(entry.key)
        kept = [(entry.rows, deadline_s) for entry, deadline_s in dated if entry.key in self._waiting]
        self._earliest_s = min((deadline_s for _, deadline_s in kept), default=math.inf)
        self._largest = max((rows for rows, _ in kept), default=0)
        return late

    def take(self, now: float) -> list[Entry]:
        """What an idle session runs now; empty if nothing waits, or if waiting until `wake_s` pays."""
        if not self._waiting:
            return []
        hold_s = self._hold_until_s(now)
        if hold_s > now:
            self._held_until_s = hold_s
            return []
        self._held_until_s = math.inf
        oldest = next(iter(self._waiting.values()))
        batch = self._lanes[oldest.group].take(self._limit)
        self._forget(batch)
        return batch

    def wake_s(self, now: float) -> float | None:
        """When an idle session should ask again if nothing arrives; None if only an arrival can change anything."""
        return max(now, self._hold_until_s(now)) if self._waiting else None

    def predicted_wait_s(
        self, now: float, rows: int, busy_until_s: float | None = None, *, group: Hashable = None
    ) -> float:
        """How long until a new entry would be answered: what runs now, what waits in batches, and its own batch.

        Rather too long than too short: everything that waits is taken to go first, and what room the batches have to
        be filled by the rows that arrive meanwhile, two standard deviations more than their rate promises. An entry
        of a group that does not wait needs a batch of its own. A pause of `take` for a larger batch is left out, as
        it makes no entry late.
        """
        batches, room, own_rows = self._plan(rows, group)
        busy_s = 0.0 if busy_until_s is None else max(0.0, busy_until_s - now)
        answer_s = busy_s + (batches * self._curve.alpha_ms + (self._rows + rows) * self._curve.beta_ms) / 1000
        start_s = max(0.0, answer_s - self._curve.ms(own_rows) / 1000)
        expected = self._arrivals.per_s(now) * start_s
        joining = min(room, expected + 2 * math.sqrt(expected))
        return answer_s + joining * self._curve.beta_ms / 1000

    def observe(self, rows: int, ms: float) -> None:
        """Learn from a batch that took `ms`: the curve, and with a target the limit."""
        self._curve = _nearer(self._curve, rows, ms)
        if self._target_ms is None:
            return
        if ms <= self._target_ms:
            self._limit = min(self._most, self._limit + 1)
        elif rows <= self._limit:
            self._limit = max(1, self._limit // 2)

    def _forget(self, entries: list[Entry]) -> None:
        """Account for entries of one group that their lane no longer holds."""
        for entry in entries:
            del self._waiting[entry.key]
            self._rows -= entry.rows
        group = entries[0].group
        if not self._lanes[group].entries:
            del self._lanes[group]
        if not self._waiting:
            self._held_until_s = math.inf

    def _too_late(self, now: float, rows: int, deadline_s: float) -> bool:
        return now + self._curve.ms(rows) / 1000 > deadline_s

    def _hold_until_s(self, now: float) -> float:
        """Until when waiting pays; not after `now`: run at once."""
        rate = self._arrivals.per_s(now)
        goal = min(self._limit, int(rate * self._curve.alpha_ms / 1000))
        if self._rows >= goal or len(self._lanes) > 1 or any(entry.alone for entry in self._waiting.values()):
            return now
        latest_s = min(map(self._due_s, self._waiting.values())) - self._curve.ms(goal) / 1000
        # Arrivals meanwhile do not prolong the wait, or a trickle could go on for ever.
        return min(self._held_until_s, now + (goal - self._rows) / rate, latest_s)

    def _due_s(self, entry: Entry) -> float:
        """When the entry should be answered; at once if nothing says otherwise."""
        if entry.deadline_s is None and self._target_ms is None:
            return -math.inf
        deadline_s = math.inf if entry.deadline_s is None else entry.deadline_s
        target_s = math.inf if self._target_ms is None else entry.arrived_s + self._target_ms / 1000
        return min(deadline_s, target_s)

    def _plan(self, rows: int, group: Hashable) -> tuple[int, int, int]:
        """With a new entry: the number of batches, the rows that may yet join them, the rows of its own batch."""
        batches = room = 0
        for lane in self._lanes.values():
            lane.pack(self._limit)
            batches += lane.batches
            room += max(0, self._limit - lane.open_rows)
        own = self._lanes.get(group)
        if own is not None and own.open_rows + rows <= self._limit:
            return batches, room - rows, own.open_rows + rows
        return batches + 1, room + max(0, self._limit - rows), rows


class _Lane:
    """The entries of one group in order, and the batches that they make.

    The count of batches is kept up with additions and takings; only a removal or another limit costs a recount.
    """

    def __init__(self) -> None:
        self.entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self.batches = 0
        self.open_rows = 0
        self._packed_for = 0

    def add(self, entry: Entry) -> None:
        self.entries[entry.key] = entry
        if self._packed_for:
            self._pack_one(entry, self._packed_for)

    def remove(self, entry: Entry) -> None:
        del self.entries[entry.key]
        self._packed_for = 0

    def replace(self, entry: Entry) -> None:
        """The one of the same key, in its place."""
        self.entries[entry.key] = entry
        self._packed_for = 0

    def take(self, limit: int) -> list[Entry]:
        batch: list[Entry] = []
        open_rows = 0
        for entry in self.entries.values():
            if batch and not _joins(entry, open_rows, limit):
                break
            open_rows = _filled(entry, open_rows, limit)
            batch.append(entry)
        for entry in batch:
            del self.entries[entry.key]
        self.batches -= 1
        if self._packed_for != limit:
            self._packed_for = 0
        return batch

    def pack(self, limit: int) -> None:
        """Make `batches`, and `open_rows` of the last, right for this limit."""
        if self._packed_for == limit:
            return
        self._packed_for = limit
        self.batches = self.open_rows = 0
        for entry in self.entries.values():
            self._pack_one(entry, limit)

    def _pack_one(self, entry: Entry, limit: int) -> None:
        if self.batches and _joins(entry, self.open_rows, limit):
            self.open_rows = _filled(entry, self.open_rows, limit)
        else:
            self.batches += 1
            self.open_rows = _filled(entry, 0, limit)


class _Arrivals:
    """The rate of arriving rows, with exponentially fading memory."""

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._rows = 0.0
        self._last_s = -math.inf

    def add(self, at_s: float, rows: int) -> None:
        self._rows = self._faded(at_s) + rows
        self._last_s = max(self._last_s, at_s)

    def per_s(self, now: float) -> float:
        return self._faded(now) / self._memory_s

    def _faded(self, now: float) -> float:
        return self._rows * math.exp(-max(0.0, now - self._last_s) / self._memory_s)


def _joins(entry: Entry, open_rows: int, limit: int) -> bool:
    return not entry.alone and open_rows + entry.rows <= limit


def _filled(entry: Entry, open_rows: int, limit: int) -> int:
    """The rows of a batch with the entry in it; a batch that none may join counts as full."""
    return limit if entry.alone else open_rows + entry.rows


def _nearer(curve: CostCurve, rows: int, ms: float) -> CostCurve:
    """The curve, moved a step towards an observation."""
    expected = curve.ms(rows)
    if expected == 0:
        return CostCurve(0.0, ms / rows)
    fixed, moving = curve.alpha_ms / expected, curve.beta_ms * rows / expected
    step = _STEP * (min(ms / expected, 2.0) - 1) / (fixed**2 + moving**2)
    return CostCurve(curve.alpha_ms * (1 + step * fixed), curve.beta_ms * (1 + step * moving))
