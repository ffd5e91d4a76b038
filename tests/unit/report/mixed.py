"""A synthetic manifest with everything in it: all families, low rank × int8, options, providers, predictions.

Invented numbers on the ResNet-50 of `manifests`; nothing here was measured.
"""

from __future__ import annotations

import msgspec
import numpy as np

from ranksmith.results import (
    FrontierPoint,
    LatencyPair,
    LayerRecord,
    Manifest,
    OptionRecord,
    PredictionAudit,
    ProviderLatency,
)
from tests.unit.report import manifests

__all__ = ["mixed"]

replace = msgspec.structs.replace
_KINDS = ("output-pca", "input-side", "spatial-vertical", "spatial-horizontal")


def _options(layer: LayerRecord, sensitivity: float, rng: np.random.Generator) -> list[OptionRecord]:
    assert layer.baseline_ms is not None
    options = []
    for precision, gain, noise in (("fp32", 1.0, 0.0), ("int8", 3.1, 0.02)):
        for share in (0.25, 0.5, 0.75, None):
            kind = None if share is None else _KINDS[int(rng.integers(4))]
            error = noise if share is None else noise + 0.12 * (1 - share)
            ms = layer.baseline_ms / gain * (1.0 if share is None else share + 0.2)
            paying = "pays" if ms < layer.baseline_ms else "slower"
            options.append(
                OptionRecord(
                    kind=kind,
                    rank=None if share is None else int(16 * max(1, layer.full_rank * share // 16)),
                    precision=precision,
                    predicted_ms=ms,
                    error=error,
                    damage=sensitivity * error**2,
                    verdict="dominated" if share == 0.75 and precision == "fp32" else paying,
                )
            )
    return options


def _layer(layer: LayerRecord, rng: np.random.Generator) -> LayerRecord:
    if layer.reason == "kept-stem":
        return layer
    assert layer.baseline_ms is not None
    sensitivity = float(rng.lognormal(-1.5, 0.8))
    options = _options(layer, sensitivity, rng)
    if rng.uniform() < 0.08:
        return replace(
            layer,
            kind=None,
            rank=None,
            reason="kept-sensitive",
            options=options,
            sensitivity=sensitivity,
            macs_after=layer.macs_before,
            retained_energy=None,
            measured_ms=layer.baseline_ms,
            damage=0.0,
            detail="int8 and every rank that pays would cost more than their time is worth",
        )
    place = 5 if layer.rank is not None else 7
    option = replace(options[place], verdict="chosen")
    options[place] = option
    assert option.predicted_ms is not None
    detail = "computes in int8 in 0.32 of the time; no rank is worth more on top of it"
    if option.rank is not None:
        share = option.predicted_ms / layer.baseline_ms
        detail = f"{option.kind} at rank {option.rank} and int8 take {share:.2f} of the time"
    return replace(
        layer,
        kind=option.kind,
        rank=option.rank,
        precision="int8",
        predicted_ms=option.predicted_ms,
        measured_ms=option.predicted_ms * float(rng.uniform(0.94, 1.1)),
        retained_energy=layer.retained_energy if option.kind == "output-pca" else None,
        reason="decomposed" if option.rank is not None else "quantized",
        detail=detail,
        options=options,
        sensitivity=sensitivity,
        damage=option.damage,
        weighted=option.rank is not None,
    )


def _frontier(base: list[FrontierPoint], rng: np.random.Generator) -> list[FrontierPoint]:
    original, folded = base[0], base[1]
    dense_ms = 45.9
    points = [replace(original, family="original", measured_ms=dense_ms), replace(folded, family="folded")]

    def add(
        family: str, number: int | None, speedup: float, drop: float, *, measured: bool, chosen: bool = False
    ) -> None:
        name = family if number is None else f"{family}-{number:02d}"
        points.append(
            replace(
                folded,
                name=name,
                family=family,
                plan=None if family == "uniform-svd" else f"{name}.json",
                speedup=speedup,
                speedup_ci95=(speedup * 0.985, speedup * 1.015) if measured else None,
                selection_drop_pp=drop,
                selection_agreement=1 - min(0.9, 0.012 + max(drop, 0.0) * 0.013),
                selection_kl=0.004 + 0.01 * max(drop, 0.0),
                predicted_ms=dense_ms / speedup * float(rng.uniform(0.96, 1.04)),
                measured_ms=dense_ms / speedup if measured else None,
                probability=float(np.clip(1.05 - 0.4 * max(drop, 0.0), 0.01, 0.99)),
                chosen=chosen,
            )
        )

    add("int8", None, 3.42, 0.5, measured=True)
    for number, speedup in enumerate((1.12, 1.24, 1.36, 1.5, 1.7), 1):
        add(
            "low-rank",
            number,
            speedup,
            round((speedup - 1) ** 2 * 5 + float(rng.normal(0, 0.1)), 1),
            measured=number > 3,
        )
    for number, speedup in enumerate((3.6, 3.9, 4.2, 4.5, 4.8, 5.2), 1):
        drop = round(0.5 + (speedup - 3.4) ** 2 * 0.9 + float(rng.normal(0, 0.1)), 1)
        add("low-rank-int8", number, speedup, drop, measured=number in (3, 4), chosen=number == 3)
    for number, (speedup, drop) in enumerate(((1.08, 2.6), (1.2, 5.1), (1.35, 14.0), (1.6, 47.0)), 1):
        add("uniform-svd", number, speedup, drop, measured=True)
    return points


def _int8_latency(pair: LatencyPair) -> LatencyPair:
    faster = 4.18 / pair.ratio
    return replace(
        pair,
        result_ms=[value / faster for value in pair.result_ms],
        ratio=4.18,
        ci95=(4.12, 4.24),
    )


def mixed() -> Manifest:
    """A ResNet-50 made faster by low rank and int8 together."""
    rng = np.random.default_rng(33)
    base = manifests.faster()
    layers = [_layer(layer, rng) for layer in base.layers]
    measured = [34.1, 30.2, 27.7, 13.4, 12.1, 10.9, 10.2, 9.4]
    return replace(
        base,
        precision="int8",
        layers=layers,
        latency=[_int8_latency(pair) for pair in base.latency],
        model=replace(base.model, bytes=21_904_332),
        frontier=_frontier(base.frontier, rng),
        accuracy=replace(base.accuracy, probability_within=0.83),
        prediction=PredictionAudit(
            plans=len(measured),
            median_error=0.031,
            predicted_ms=[value * float(rng.uniform(0.95, 1.05)) for value in measured],
            measured_ms=measured,
        ),
        providers=[
            ProviderLatency(
                provider="openvino",
                precision="fp32",
                baseline_ms=39.8,
                result_ms=11.7,
                ratio=3.92,
                ci95=(3.85, 3.99),
            ),
            ProviderLatency(
                provider="openvino-bf16",
                precision="bf16",
                baseline_ms=31.2,
                result_ms=12.9,
                ratio=3.56,
                ci95=(3.4, 3.71),
                note="this CPU computes bf16 without AMX",
            ),
        ],
        notes=[
            "Correcting mean and bias of 31 Convs brought agreement from 96.2 % to 97.7 % at the same time.",
            "res5a_branch1 was faster in context but slower in the whole model, so it was reverted.",
        ],
    )
