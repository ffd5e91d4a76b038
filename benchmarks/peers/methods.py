"""Uniform weight SVD, energy-threshold output PCA, int8 alone, and ours.

Peers get every help that costs them nothing: BatchNormalization folded first, a Conv kept dense where its chain
would cost more multiply-adds, and ranks aligned to the runtime's channel block in one variant beside the plain one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ranksmith.graph import io
from ranksmith.graph.decompose import replace_conv
from ranksmith.lowrank.cost import pair_macs_ratio
from ranksmith.lowrank.factor import Factorizer, full_rank
from ranksmith.lowrank.spectra import rank_for_energy, retained_energy
from ranksmith.results import Manifest, RankPlan, from_json
from ranksmith.workflow.cache import Cache, key_of
from ranksmith.workflow.decompose import decompose
from ranksmith.workflow.inputs import image_batch
from ranksmith.workflow.quantize import quantize_model
from ranksmith.workflow.statistics import Statistics, gather

from .setting import Candidate, Method, Setting

__all__ = ["energy_pca", "int8", "ours", "uniform_svd"]

_ALIGNED = {True: "ranks in whole channel blocks", False: "ranks as they come"}


def uniform_svd(setting: Setting, block: int, fractions: list[float], *, aligned: bool) -> Method:
    """Every candidate at one fraction of its full rank, by SVD of its weight."""
    name = "uniform-svd" + ("" if aligned else "-unaligned")

    @cache
    def factorizer(node: str) -> Factorizer:
        return Factorizer(setting.layers[node], "weight-svd")

    def rank(node: str, fraction: float) -> int:
        step = block if aligned else 1
        return max(step, step * round(fraction * full_rank(setting.layers[node], "weight-svd") / step))

    def candidate(fraction: float) -> Candidate:
        chosen = _cheaper(setting, "weight-svd", {node: rank(node, fraction) for node in setting.layers})
        return Candidate(
            method=name,
            label=f"{fraction:.4g} of full rank",
            parameter=fraction,
            recipe={"weight-svd": chosen},
            build=lambda: _built(setting, {node: (factorizer(node), rank) for node, rank in chosen.items()}),
        )

    return Method(
        name=name,
        title=f"uniform weight SVD, {'aligned' if aligned else 'unaligned'}",
        about=f"every candidate Conv at one fraction of full rank, {_ALIGNED[aligned]}; no data",
        candidates=[candidate(fraction) for fraction in fractions],
        at=candidate,
    )


def energy_pca(setting: Setting, block: int, thresholds: list[float], *, aligned: bool) -> Method:
    """Output PCA, each layer at the least rank that retains a share of its output's energy."""
    name = "energy-pca" + ("" if aligned else "-unaligned")

    @cache
    def factorizer(node: str) -> Factorizer:
        return Factorizer(setting.layers[node], "output-pca", _output_statistics(setting).output[node])

    @cache
    def energy(node: str) -> NDArray[np.float64]:
        return retained_energy(_output_statistics(setting).output[node].covariance, setting.layers[node].group)

    def rank(node: str, threshold: float) -> int:
        return rank_for_energy(energy(node), threshold, block if aligned else 1)

    def candidate(threshold: float) -> Candidate:
        chosen = _cheaper(setting, "output-pca", {node: rank(node, threshold) for node in setting.layers})
        return Candidate(
            method=name,
            label=f"{threshold:.6g} of the energy",
            parameter=threshold,
            recipe={"output-pca": chosen},
            build=lambda: _built(setting, {node: (factorizer(node), rank) for node, rank in chosen.items()}),
        )

    return Method(
        name=name,
        title=f"output PCA by energy, {'aligned' if aligned else 'unaligned'}",
        about=f"each candidate Conv at the least rank that retains one share of its output's energy, "
        f"{_ALIGNED[aligned]}",
        candidates=[candidate(threshold) for threshold in thresholds],
        at=candidate,
    )


def int8(setting: Setting) -> Method:
    """What `ranksmith quantize` gives."""

    def build() -> bytes:
        model, _ = quantize_model(
            setting.source,
            dataset=setting.calibration_set,
            preprocess=setting.preprocess,
            calibration=len(setting.calibration),
            threads=setting.threads,
            seed=setting.seed,
            progress=setting.progress,
        )
        return model

    candidate = Candidate(method="int8", label="int8", recipe={"quantize": "auto"}, build=build)
    return Method(
        name="int8",
        title="int8 alone",
        about="`ranksmith quantize`: QDQ, per channel, activation ranges by the best of its methods",
        candidates=[candidate],
        from_original=False,
    )


def ours(setting: Setting, bundles: Sequence[Path], most: int, targets: list[float]) -> list[Method]:
    """The plans on the frontiers of bundles, rebuilt as `ranksmith decompose --plan` does: fp32 and int8 apart."""
    plans: dict[str, list[tuple[float, str, RankPlan]]] = {}
    for bundle in bundles:
        manifest = from_json((bundle / "manifest.json").read_bytes(), Manifest)
        if manifest.source.sha256 != setting.source_sha256:
            raise SystemExit(f"{bundle} was made from another model than {setting.source.path}")
        if manifest.data.calibration_sha256 != setting.calibration_sha256:
            raise SystemExit(f"{bundle} was calibrated on other images than the peers: use its --calibration, --seed")
        for point in manifest.frontier:
            # The peer on a bundle's frontier is no plan of ours.
            if point.plan is None or point.family == "uniform-svd":
                continue
            plan = from_json((bundle / "frontier" / Path(point.plan).name).read_bytes(), RankPlan)
            # int8 alone is a method of its own; with Convs left in float it is one of ours.
            if plan.layers:
                name = f"{bundle.name} {Path(point.plan).stem}"
                plans.setdefault(plan.precision, []).append((point.speedup, name, plan))
    methods = []
    for precision, title in (("fp32", "ranksmith, fp32"), ("int8", "ranksmith, int8 × low rank and float")):
        listed = sorted(plans.get(precision, []), key=lambda entry: entry[:2])
        kept = _spread([speedup for speedup, _, _ in listed], most, targets)
        if listed:
            candidates = [_planned(setting, f"ranksmith-{precision}", *listed[index][1:]) for index in kept]
            about = f"{len(kept)} of the {len(listed)} {precision} plans on the frontiers of `ranksmith compress`"
            name = f"ranksmith-{precision}"
            from_original = precision == "fp32"
            methods.append(Method(name, title, about, candidates, from_original=from_original))
    return methods


def _planned(setting: Setting, method: str, name: str, plan: RankPlan) -> Candidate:
    def build() -> bytes:
        # int8 plans come out of the same call, in QDQ form.
        model, _ = decompose(
            setting.source,
            plan,
            dataset=setting.calibration_set,
            preprocess=setting.preprocess,
            calibration=plan.calibration or setting.asked_calibration,
            fold=True,
            threads=setting.threads,
            seed=setting.seed if plan.seed is None else plan.seed,
            progress=setting.progress,
            cache=Cache(),
        )
        return io.to_bytes(model)

    recipe = {"plan": msgspec.to_builtins(plan)}
    return Candidate(method=method, label=name, recipe=recipe, build=build)


def _spread(speedups: list[float], most: int, targets: list[float]) -> list[int]:
    """Indices into ascending `speedups`: those beside each target, and of the others so many that they lie evenly."""
    beside = set()
    for target in targets:
        place = sum(speedup < target for speedup in speedups)
        beside |= {index for index in range(place - 2, place + 2) if 0 <= index < len(speedups)}
    room = max(2, most - len(beside))
    even = {round(index * (len(speedups) - 1) / (room - 1)) for index in range(room)} if speedups else set()
    return sorted(beside | even)


def _cheaper(setting: Setting, kind: str, ranks: Mapping[str, int]) -> dict[str, int]:
    """Those at which the chain has fewer multiply-adds than the Conv; the others stay dense."""
    return {
        node: rank
        for node, rank in ranks.items()
        if rank <= full_rank(setting.layers[node], kind)
        and pair_macs_ratio(setting.layers[node], kind, rank, *setting.input_hw[node]) < 1
    }


@cache
def _output_statistics(setting: Setting) -> Statistics:
    """Covariances of every candidate's output over the calibration images, out of the cache the second time."""
    key = key_of(
        "frontier-statistics",
        source=setting.source_sha256,
        calibration=setting.calibration_sha256,
        preprocess=str(setting.preprocess),
    )
    cached = setting.cache.arrays(key)
    if cached is not None:
        return Statistics.from_arrays(setting.layers, cached)
    statistics = gather(
        setting.folded,
        {node: ["output"] for node in setting.layers},
        dataset=setting.calibration_set,
        indices=setting.calibration,
        preprocess=setting.preprocess,
        threads=setting.threads,
        progress=setting.progress,
        batch=image_batch(setting.folded, setting.source.path),
    )
    setting.cache.put_arrays(key, statistics.to_arrays())
    return statistics


def _built(setting: Setting, chosen: Mapping[str, tuple[Factorizer, int]]) -> bytes:
    model = setting.folded.clone()
    for node, (factorizer, rank) in chosen.items():
        replace_conv(model, node, factorizer.factors(rank))
    return io.to_bytes(model)
