"""Every judged plan's latency, measured beside the original, and how far the table's predictions were off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ranksmith.measure.bootstrap import paired_ratio_ci95
from ranksmith.measure.latency import paired_latency, random_feeds, session_runners
from ranksmith.results import PredictionAudit, Speedup, to_json
from ranksmith.runtime.machine import fingerprint, machine
from ranksmith.runtime.session import open_session
from ranksmith.workflow.cache import key_of
from ranksmith.workflow.compress.frontier import Judge, Timed, Tried
from ranksmith.workflow.compress.job import Job, Prepared

__all__ = ["Auditor"]

# Plans that are timed together, beside the original and their family's own base.
_AT_ONCE = 4
_ROUNDS = 9


@dataclass(frozen=True, eq=False)
class Auditor:
    """Times plans and remembers what it measured."""

    job: Job
    prepared: Prepared
    judge: Judge
    _known: dict[str, Timed] = field(default_factory=dict)

    def time(self, tried: Sequence[Tried]) -> list[Timed]:
        """The latency of every plan, in the order given; what was measured before is not measured again."""
        missing = [one for one in tried if to_json(one.plan) not in self._known]
        if missing:
            with self.job.progress.stage("Measuring whole models", len(missing)) as advance:
                for part in _parts(missing):
                    for one, timed in zip(part, self._measure(part), strict=True):
                        self._known[to_json(one.plan)] = timed
                    advance(len(part))
        return [self._known[to_json(one.plan)] for one in tried]

    def prediction(self, tried: Sequence[Tried]) -> PredictionAudit | None:
        """How far the table was off for the plans that decompose anything; None where there are none."""
        pairs = [
            (timed.predicted_ms, timed.measured_ms)
            for one, timed in zip(tried, self.time(tried), strict=True)
            if timed.predicted_ms is not None and any(entry.kind for entry in one.plan.layers)
        ]
        if not pairs:
            return None
        predicted_ms, measured_ms = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        errors = np.abs(np.array(predicted_ms) / np.array(measured_ms) - 1)
        return PredictionAudit(
            plans=len(pairs),
            median_error=float(np.median(errors)),
            predicted_ms=predicted_ms,
            measured_ms=measured_ms,
        )

    def _measure(self, part: Sequence[Tried]) -> list[Timed]:
        options, family = self.job.options, part[0].family
        key = key_of(
            "frontier",
            machine=fingerprint(machine(), options.provider, options.threads),
            batch=options.batches[0],
            source=self.prepared.source_sha256,
            calibration=self.prepared.calibration_sha256,
            plans=[to_json(one.plan) for one in part],
        )
        found = self.job.cache.json(key)
        if found is None:
            base = family.base if family else self.prepared.folded_bytes
            models = [self.prepared.folded_bytes, base, *(self.judge.build(one.plan) for one in part)]
            sessions = [open_session(model, provider=options.provider, threads=options.threads) for model in models]
            feeds = random_feeds(sessions[0], options.batches[0], options.seed)
            runners = session_runners(sessions, feeds)
            samples = paired_latency(runners, pairs=_ROUNDS, seed=options.seed)
            found = [
                [*np.median(samples[:, [1, column]], axis=0).tolist(), speedup.ratio, *speedup.ci95]
                for column in range(2, len(models))
                for speedup in [paired_ratio_ci95(samples[:, 0], samples[:, column], options.seed)]
            ]
            self.job.cache.put_json(key, found)
        return [
            Timed(
                own_ms,
                Speedup(ratio=ratio, ci95=(low, high)),
                one.family.predicted_ms(one.choices) * base_ms / one.family.base_ms if one.family else None,
            )
            for one, (base_ms, own_ms, ratio, low, high) in zip(part, found, strict=True)
        ]


def _parts(tried: Sequence[Tried]) -> Iterator[list[Tried]]:
    """Plans of one family at a time, a few of them."""
    families = {id(one.family): one.family for one in tried}
    for family in families.values():
        own = [one for one in tried if one.family is family]
        for start in range(0, len(own), _AT_ONCE):
            yield own[start : start + _AT_ONCE]
